"""A page to draw on, and the server that looks at the drawing."""
