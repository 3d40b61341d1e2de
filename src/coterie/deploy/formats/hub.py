"""An exported folder on the Hugging Face Hub."""

from pathlib import Path

from coterie.errors import UserError, in_a_line


def check_hub(name: str) -> None:
    """Refuse what cannot be uploaded, before anything is written.

    Raises:
        UserError: The name is none of the Hub's, there is no token, or the Hub has such a network already.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"⟨push_to_hub {name}⟩: no name of the Hub ({in_a_line(error)}); write OWNER/NAME") from error
    if get_token() is None:
        raise UserError("⟨push_to_hub⟩ needs a token of the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    try:
        there = HfApi().file_exists(name, "config.json")
    except Exception as error:  # of the network, the proxy, the Hub
        raise UserError(f"⟨push_to_hub {name}⟩: the Hub does not answer ({in_a_line(error)}); try again") from error
    if there:
        raise UserError(f"⟨push_to_hub {name}⟩: the Hub has a network of that name already; choose another")


def push(path: Path, name: str) -> str:
    """Upload a folder, and give its address.

    Raises:
        UserError: It could not be uploaded; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="coterie")
        place = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=place.repo_id, folder_path=str(path), commit_message="Add the network")
    except Exception as error:
        raise UserError(
            f"{path}: written, but not uploaded ({in_a_line(error)}); upload it with `hf upload {name} {path}`"
        ) from error
    return str(place)
