"""Models from the Hugging Face hub: a snapshot of the repository, which then is a local directory."""

import re
from pathlib import Path

from ..errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_SKIPPED = ["*/*", "consolidated*"]
"""Other formats of the same weights, which some repositories carry."""


def looks_like_hub_id(name: str) -> bool:
    """Whether a name has the form `model` or `owner/model`."""
    return _HUB_ID.fullmatch(name) is not None


def fetch(name: str, revision: str | None) -> tuple[Path, str]:
    """Download (or find in the cache) a hub model. Returns its directory and the commit it was resolved to.

    Safetensors are preferred; PyTorch's pickles are fetched only where a repository has nothing else, and are
    loaded with restricted unpickling by transformers. Raises `ModelError` when the model, the revision or
    the network is not there.
    """
    files = _snapshot(name, revision, [*_SMALL, "*.safetensors"])
    if not any(files.glob("*.safetensors")):
        files = _snapshot(name, files.name, [*_SMALL, "*.bin"])
    return files, files.name


def _snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub import utils as hub

    at = f" at revision {revision!r}" if revision else ""
    quiet = not hub.are_progress_bars_disabled()
    if quiet:
        hub.disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=_SKIPPED))
    except hub.GatedRepoError:
        raise ModelError(
            f"the hub model {name}{at} asks for an agreement: accept its terms on huggingface.co and log in with "
            "`hf auth login`, or give a local directory."
        ) from None
    except hub.RevisionNotFoundError:
        raise ModelError(
            f"the hub model {name} has no revision {revision!r}: give a branch, tag or commit of it."
        ) from None
    except hub.RepositoryNotFoundError:
        raise ModelError(
            f"there is no model {name}: it is neither a directory here nor a public model on the hub. Check the "
            "spelling, or log in with `hf auth login` if it is private."
        ) from None
    except hub.LocalEntryNotFoundError as error:
        raise ModelError(
            f"the hub model {name}{at} is not on this machine, and the hub cannot be reached: connect to the network "
            "once, or give a local directory or builtin:tiny."
        ) from error
    except (hub.HfHubHTTPError, hub.HFValidationError, OSError) as error:
        text = str(error).strip().split("\n")[0]
        raise ModelError(
            f"cannot download the hub model {name}{at}: {text}. Try again, or give a local directory."
        ) from error
    finally:
        if quiet:
            hub.enable_progress_bars()
