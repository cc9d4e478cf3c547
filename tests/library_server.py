"""A process that holds libraries and forks others, which then need not import them: see tests/fresh_processes.py.

Nothing here has read what tests set in an environment, such as HF_HOME: transformers, huggingface_hub and datasets do
so when they are imported, and each process imports those, and whatever is this project's, by itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
import types
import warnings

LIBRARIES = [
    "matplotlib.backends.backend_agg",
    "pandas",
    "PIL.Image",
    "pyarrow.parquet",
    "scipy.optimize",
    "sklearn.metrics",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.export",
]
READ_ENVIRONMENT = ("transformers", "huggingface_hub", "datasets", "modeling_perceiver_study", "lab")


def serve():
    """Read requests, one a line; write the number of the process that is forked for each, and how it ended."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    held = [name for name in READ_ENVIRONMENT if name in sys.modules]
    if held:
        raise RuntimeError(f"{held} would have the environment of this process, not that of the one that uses it.")
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        process = os.fork()
        if not process:
            requests.close()
            answers.close()
            leave(become, **json.loads(line))
        print(process, file=answers, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def leave(function, **given):
    """End with what a function does, as Python would, but without taking apart all that was imported."""
    code = 0
    try:
        function(**given)
    except SystemExit as exit:
        code = exit.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def become(arguments: list[str], folder: str, environment: dict[str, str], outputs: list[str]):
    """Be what `python` with these arguments would be."""
    for own, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), *((path, os.O_WRONLY) for path in outputs)]):
        os.dup2(os.open(path, flags), own)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    is_strict = arguments[:2] == ["-W", "error"]
    arguments = arguments[2:] if is_strict else arguments
    if is_strict or environment.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.modules["torch"].set_num_threads(1)
    is_code = arguments[0] == "-c"
    first = "" if is_code else os.path.dirname(os.path.abspath(arguments[0]))
    sys.path[:1] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if is_code:
        _, code, *given = arguments
        sys.argv = ["-c", *given]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    serve()
