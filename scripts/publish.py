"""Publish what train.py wrote on the Hugging Face Hub, in one commit.

    python scripts/publish.py output/cifar10-study --repo_id org/perceiver-cifar10 --dry_run     # look first
    python scripts/publish.py output/cifar10-study --repo_id org/perceiver-cifar10 --private

Weights, config, image processor, code, recipe, metrics, pictures and a model card made of them. No local path leaves
the machine. An interrupted push leaves the published revision as it was and can simply be repeated. `--output FOLDER`
keeps what would be published in a folder instead, which loads like the repository.
"""

import argparse
import shutil

import lab.waiting  # noqa: F401, before torch

import transformers

from lab.arguments import parse_with_changes, require_of_data
from lab.errors import UserError, run_command
from lab.places import folder_to_write, place
from lab.release.card import require_licence
from lab.release.hub import push, require_repo_id, require_token, staged_files
from lab.release.staging import stage
from lab.writing import new_folder


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    transformers.utils.logging.disable_progress_bar()  # that of the upload is enough
    if options.output is not None and options.output.exists():
        raise UserError(f"--output {options.output} exists: name a folder that does not, or remove it")
    if options.output is not None:
        folder_to_write(options.output.parent)
    if not options.dry_run and options.output is None:
        require_token()
    with stage(
        options.checkpoint,
        options.repo_id,
        licence=options.license,
        overrides=options.overrides,
        seeds=options.seeds,
        show_samples=not options.without_samples,
        dtype=options.dtype,
    ) as folder:
        if options.output is not None:
            with new_folder(options.output) as unfinished:
                shutil.copytree(folder, unfinished, dirs_exist_ok=True)
            print(f"{options.output} holds what would be sent to {options.repo_id}")
        elif options.dry_run:
            for path in staged_files(folder):
                print(f"{path.stat().st_size:>13,}  {path.relative_to(folder).as_posix()}")
            print(f"loads in a clean process; nothing was sent to {options.repo_id}")
        else:
            push(folder, options.repo_id, private=options.private)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish a finished run on the Hugging Face Hub, in one commit.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=place, help="folder that train.py wrote")
    parser.add_argument("--repo_id", required=True, metavar="OWNER/NAME", help="created if it does not exist")
    parser.add_argument("--private", action="store_true", help="let nobody else see it; refused if it is public")
    parser.add_argument("--dry_run", action="store_true", help="list the files and load them; send nothing")
    parser.add_argument(
        "--output", type=place, metavar="FOLDER", help="write everything to this new folder; send nothing"
    )
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16"], help="round the weights (default: float32, as trained)"
    )
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: apache-2.0)")
    parser.add_argument("--seeds", nargs="+", default=[], type=place, metavar="FOLDER", help="runs of other seeds")
    parser.add_argument("--without_samples", action="store_true", help="show no test sample, where the data forbids it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="where data are now, such as data.path=/data")
    options = parse_with_changes(parser, arguments)
    require_repo_id(options.repo_id)
    require_licence(options.license)
    require_of_data(options.overrides)
    return options


if __name__ == "__main__":
    run_command(main)
