"""A finished run on a hub: model, masks, card and report, in one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

from sparsepo_dist.errors import UserError, shortened

_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
_REPORT = (".html", ".png")
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_REFUSALS = {
    401: "it does not know the token; log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; it needs the role `write`, and its owner a place in the organisation",
    404: "there is no such repository or owner, or the token may not see it",
}


def files_to_push(run: Path) -> dict[str, Path]:
    """What of a run goes to a hub, by its name there: final/ as the repository's root, and the report.

    Checkpoints, and with them all optimizer states, stay; so do links, hidden files, and pickled files, which could
    run code where they are loaded.

    Raises:
        UserError: the run is not finished.
    """
    final = run / "final"
    if not any(path for pattern in _WEIGHTS for path in final.glob(pattern)):
        raise UserError(f"{run} is not a finished run: final/ holds no model; a run that goes on has none yet")
    found = {path.relative_to(final).as_posix(): path for path in sorted(final.rglob("*"))}
    found |= {f"report/{path.name}": path for path in sorted((run / "report").glob("*")) if path.suffix in _REPORT}
    return {name: path for name, path in found.items() if _may_go(name, path)}


def push(run: Path, repository: str, *, private: bool) -> str:
    """Put a finished run into a repository of models, which is made where it is not there; the commit's address.

    The token is huggingface_hub's: HF_TOKEN, or that of `hf auth login`. HF_ENDPOINT names another hub.

    Args:
        private: of a repository that is made now; what one is that was there already stays.

    Raises:
        UserError: the run is not finished, there is no token, or the hub refuses or cannot be reached.
    """
    files = files_to_push(run)
    token = get_token()
    if token is None:
        raise UserError("there is no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
    operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    api = HfApi(token=token)
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.create_commit(made.repo_id, operations, commit_message=f"Run {run.resolve().name}")
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push") from None
    except HfHubHTTPError as error:
        code = error.response.status_code
        why = _REFUSALS.get(code) or shortened(error.server_message or "it says no more")
        raise UserError(f"{api.endpoint} refused {repository} ({code}): {_without(token, why)}") from None
    except HTTPError as error:
        why = shortened(str(error)) or type(error).__name__
        raise UserError(f"{api.endpoint} cannot be reached: {_without(token, why)}") from None
    except (ValueError, OSError, RuntimeError) as error:  # what the hub's library makes of names, cards and uploads
        raise UserError(f"{repository}: {_without(token, shortened(str(error), 300))}") from None
    return commit.commit_url


def _may_go(name: str, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return path.is_file() and not path.is_symlink() and not hidden and path.suffix not in _PICKLED


def _without(token: str, text: str) -> str:
    return text.replace(token, "(the token)")
