"""W&B's environment variables: the config decides, so one that contradicts it is refused."""

from __future__ import annotations

import getpass
import os
from importlib.util import find_spec
from pathlib import Path

from lenet_dist.config import Config
from lenet_dist.exits import RequestError

TRACKERS = ("wandb", "tensorboard")

_WHO_AND_WHERE = {
    "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE", "WANDB_BASE_URL",
    "WANDB_APP_URL", "WANDB_CONFIG_DIR", "WANDB_INSECURE_DISABLE_SSL", "WANDB_HTTP_TIMEOUT",
    "WANDB_USERNAME", "WANDB_USER_EMAIL", "WANDB_NOTES", "WANDB_HOST",
}  # fmt: skip
"""Variables that name the account and the server; everything else is up to the run."""


def active_trackers(config: Config) -> list[str]:
    """The trackers that the config asks for.

    Raises RequestError for one that is unknown or not installed, and for a variable that would
    override the config.
    """
    for name in config.log.trackers:
        if name not in TRACKERS:
            raise RequestError(
                f"log.trackers: no tracker {name!r}; choose from {', '.join(TRACKERS)}"
            )
        if find_spec(name) is None:
            raise RequestError(
                f"log.trackers: {name} is not installed: pip install 'lenet_dist[{name}]'"
            )
    trackers = list(dict.fromkeys(config.log.trackers))
    if "wandb" in trackers and wandb_mode(config) == "disabled":
        trackers.remove("wandb")
    if "wandb" in trackers:
        _refuse_overrides(config)
        _refuse_what_wandb_does_not_take(config)
    return trackers


def wandb_mode(config: Config) -> str:
    """wandb.mode, where `auto` follows WANDB_MODE and WANDB_DISABLED if they are set.

    Raises RequestError if they contradict the config.
    """
    asked, said = config.wandb.mode, os.environ.get("WANDB_MODE", "").lower()
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        said = "disabled"
    if said not in ("", "online", "offline", "disabled"):
        raise RequestError(f"WANDB_MODE={said}: write wandb.mode=... instead")
    if asked in ("auto", "disabled") or said in ("", asked):
        return said if asked == "auto" and said else asked
    raise RequestError(f"the environment sets W&B to {said}, but wandb.mode={asked}")


def settle_environment(run: Path) -> None:
    """Make W&B keep all its files in the run directory and take only the account and the server
    from the environment. Call it before W&B is imported."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and name not in _WHO_AND_WHERE:
            del os.environ[name]
    own = (run / "wandb").absolute()
    try:
        Path.home()
        getpass.getuser()
    except (RuntimeError, KeyError):  # A container's user may have neither; W&B asks for both.
        os.environ.update(HOME=str(own), LOGNAME=str(os.getuid()))
    os.environ.update(
        WANDB_DATA_DIR=str(own / "data"),
        WANDB_CACHE_DIR=str(own / "cache"),
        WANDB_ERROR_REPORTING="false",
        # Otherwise a silent server delays the login by 10 s, only to print a user name.
        WANDB_X_DISABLE_VIEWER="true",
    )


def _refuse_what_wandb_does_not_take(config: Config) -> None:
    """By the rules of W&B's server, which would say so only when training is over."""
    project = config.wandb.project
    if not project or len(project) > 128 or set(project) & set("/\\#?%:"):
        raise RequestError(
            f"wandb.project={project[:200]!r}: W&B takes 1 to 128 characters, none of / \\ # ? % :"
        )
    for tag in config.wandb.tags:
        if not 1 <= len(tag) <= 64:
            raise RequestError(f"wandb.tags: {tag[:80]!r}: W&B takes 1 to 64 characters")


def _refuse_overrides(config: Config) -> None:
    wandb = config.wandb
    meant = {
        "WANDB_PROJECT": ("wandb.project", wandb.project),
        "WANDB_ENTITY": ("wandb.entity", wandb.entity),
        "WANDB_RUN_GROUP": ("wandb.group", wandb.group),
        "WANDB_TAGS": ("wandb.tags", ",".join(wandb.tags)),
        "WANDB_NAME": ("run.name", config.run.name),
    }
    for variable, (key, value) in meant.items():
        said = os.environ.get(variable)
        if said and said != value:
            raise RequestError(
                f"{variable}={said} would override the config; write {key}=... instead"
            )
    of_agent = ("WANDB_RUN_ID", "WANDB_SWEEP_ID")
    alone = [variable for variable in of_agent if os.environ.get(variable)]
    if len(alone) == 1:
        raise RequestError(
            f"{alone[0]} is set, but a run resumes under its own id, and only `wandb agent`, which"
            f" sets {' and '.join(of_agent)}, gives it one; unset it"
        )
