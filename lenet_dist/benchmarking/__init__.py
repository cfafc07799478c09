"""What is measured, in which process, against which targets, and how it is shown."""
