"""The tests. An assertion that fails in one of their helpers shows its values too."""

import pytest

pytest.register_assert_rewrite(
    *(f"tests.{helper}" for helper in ("cluster", "commands", "outcome", "processes", "wandb_run"))
)
