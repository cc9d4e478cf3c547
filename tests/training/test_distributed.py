"""Several processes, on CPUs: the same training as in one."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

import score
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training.curves import read_metrics
from lab.training.loop import build_accelerator
from tests.checkpoints import save_checkpoint
from tests.models import pixels, small_model
from tests.paths import ROOT
from tests.processes import run_together, start, train_tiny
from tests.small_data import TINY_RUN, fresh_accelerate, make_parquet

pytestmark = pytest.mark.slow

RECIPE = [
    "optimization.epochs=4",
    "augmentation.crop_padding=2",
    "augmentation.horizontal_flip=true",
    "augmentation.trivial_augment=true",
    "augmentation.random_erasing=0.5",
    "augmentation.mixup_alpha=0.2",
    "augmentation.cutmix_alpha=1.0",
    "logging.every_steps=1",
    "logging.log_with=null",
    "model.attention_probs_dropout_prob=0.0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    make_parquet(folder / "data")
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    return [*RECIPE, f"data.path={folder / 'data'}", f"data.cache_dir={folder / 'cache'}"]


@pytest.fixture(scope="module")
def alone(folder, arguments):
    process = start(train_tiny, *arguments, f"output_dir={folder / 'alone'}")
    process.join(timeout=240)
    assert process.exitcode == 0
    return folder / "alone"


def launched(*arguments: str, script: str = "scripts/train.py", timeout: int = 300) -> subprocess.CompletedProcess:
    config = ROOT / "configuration" / "accelerate" / "two_cpu_processes.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={config}", "--main_process_port=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def assert_same_training(folder, other):
    """Losses of 24 steps within 1e-5, and every image counted once: 12 and 21 do not divide by two batches of 4."""
    (steps, epochs), (other_steps, other_epochs) = (read_metrics(path / "metrics.jsonl") for path in (folder, other))
    assert len(steps) == len(other_steps) == 24
    assert [line["loss"] for line in steps] == pytest.approx([line["loss"] for line in other_steps], abs=1e-5)
    for name in ("validation_accuracy", "validation_loss"):
        assert [line[name] for line in epochs] == pytest.approx([line[name] for line in other_epochs], abs=1e-4)
    results = [json.loads((path / "metrics.json").read_text()) for path in (folder, other)]
    assert results[0]["test_samples"] == 21
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], abs=1e-4)


def test_two_processes_train_as_one(folder, arguments, alone):
    """Through `accelerate launch` and the config that is there for it."""
    output = folder / "launched"
    result = launched(*TINY_RUN, *arguments, f"output_dir={output}")
    assert result.returncode == 0, result.stderr
    assert json.loads((output / "metrics.json").read_text())["hardware"].endswith("2 threads")
    assert_same_training(output, alone)
    assert result.stdout.count("on 21 test images of") == 1  # one writer
    assert load_file(output / "model.safetensors").keys() == load_file(alone / "model.safetensors").keys()


def train_and_let_go(*arguments: str):
    """A replica alive would end the group of processes while it holds Python's lock: see `lab.machine.finish`."""
    destroy = torch.distributed.destroy_process_group

    def without_replicas(group=None):
        replicas = [found for found in gc.get_objects() if isinstance(found, DistributedDataParallel)]
        assert not replicas
        destroy(group)

    torch.distributed.destroy_process_group = without_replicas
    train_tiny(*arguments)
    assert not torch.distributed.is_initialized()


def test_the_group_ends_after_its_replicas(folder, arguments):
    output = f"output_dir={folder / 'ended'}"
    assert run_together(2, train_and_let_go, *arguments, output) == [0, 0]
    assert run_together(2, train_and_let_go, *arguments, output, "--resume") == [0, 0]  # nothing is left to do


def test_accumulation_over_two_processes_too(folder, arguments, alone):
    more = ["optimization.gradient_accumulation_steps=2", "optimization.ema_decay=0.0"]
    output = folder / "accumulated"
    assert run_together(2, train_tiny, *arguments, *more, f"output_dir={output}") == [0, 0]
    assert_same_training(output, alone)


def test_steps_of_some_blocks(folder, arguments):
    """Weights of the blocks that a step leaves out have no gradients to wait for."""
    model = ["model.num_blocks=3", "model.share_block_weights=false", "model.training_blocks=[1,3]"]
    output = folder / "some blocks"
    assert run_together(2, train_tiny, *arguments, *model, f"output_dir={output}") == [0, 0]


def on_a_machine(folder: str, *arguments: str):
    """Train on a machine that has a folder `own-0` or `own-1` to itself, in which paths without a root are."""
    own = Path(folder) / f"own-{os.environ['RANK']}"
    own.mkdir(parents=True)
    os.chdir(own)
    train_tiny(*arguments)


def test_two_machines_with_a_cache_each_train_as_one_process(folder, alone):
    own = folder / "machines"
    arguments = [*RECIPE, f"data.path={folder / 'data'}", "data.cache_dir=cache", "data.max_memory_gb=0"]
    output = own / "output"
    assert run_together(2, on_a_machine, str(own), *arguments, f"output_dir={output}", machines=True) == [0, 0]
    assert_same_training(output, alone)
    caches = [sorted(path.name for path in (own / f"own-{rank}" / "cache").iterdir()) for rank in (0, 1)]
    assert len(caches[0]) == 3 and caches[0] == caches[1]  # training, validation and test images
    assert not any(path.name.startswith("tmp-") for path in output.iterdir())


def test_an_output_folder_that_machines_do_not_share_is_refused(folder, arguments, tmp_path):
    """Before any work, and by all processes."""
    codes = run_together(2, refuses_output, str(tmp_path), *arguments, "output_dir=output", machines=True)
    assert codes == [0, 0]
    made = {path.name for path in tmp_path.rglob("*") if not path.name.startswith("own-")}
    assert made == {"output", ".lock"}


def refuses_output(folder: str, *arguments: str):
    from lab.training import run_folder

    run_folder._ATTEMPTS = 1
    with pytest.raises(UserError, match=r"output_dir=output is not one folder for all .* by process 1 on "):
        on_a_machine(folder, *arguments)


def test_two_processes_fine_tune_as_one(folder, arguments, tmp_path):
    """From a checkpoint, with frozen weights, rates of their own for layers, and crops that are decoded in workers."""
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint)
    more = [f"pretrained={checkpoint}", "optimization.freeze=[perceiver.blocks.*]", "optimization.layer_decay=0.7"]
    more += ["optimization.ema_decay=0.5", "augmentation.random_resized_crop=[0.3,1.0]"]
    process = start(train_tiny, *arguments, *more, f"output_dir={tmp_path / 'alone'}")
    process.join(timeout=240)
    assert process.exitcode == 0
    together = [*arguments, *more, "data.workers=1", f"output_dir={tmp_path / 'together'}"]
    assert run_together(2, train_tiny, *together) == [0, 0]
    assert_same_training(tmp_path / "together", tmp_path / "alone")
    before, after = (load_file(path / "model.safetensors") for path in (checkpoint, tmp_path / "together"))
    for name in before:
        if not name.endswith("k_proj.bias"):  # never trained
            assert torch.equal(before[name], after[name]) == name.startswith("perceiver.blocks."), name


def test_a_failing_process_ends_the_others(folder, arguments, tmp_path):
    """One raises in the middle of training; the other waits for its gradients and must not do so for ever."""
    script = tmp_path / "failing.py"
    script.write_text(
        f"import os, sys\nsys.path[:0] = [{str(ROOT / 'scripts')!r}]\nimport train\n"
        "from lab.training.run_folder import TrainingLog\nadd = TrainingLog.add\n"
        "def fail(self, loss, progress):\n"
        "    if progress.step == 5 and os.environ['RANK'] == '1':\n        raise RuntimeError('this process fails')\n"
        "    add(self, loss, progress)\n"
        "TrainingLog.add = fail\ntrain.main()\n"
    )
    begin = time.perf_counter()
    result = launched(*TINY_RUN, *arguments, f"output_dir={folder / 'failed'}", script=str(script), timeout=240)
    assert result.returncode != 0
    assert "this process fails" in result.stderr
    assert time.perf_counter() - begin < 200
    assert not (folder / "failed" / "metrics.json").exists()


def replicated_steps(cross_attend_path: str, path: str):
    """Two training steps in torch's own DDP, which waits for a gradient of every parameter that it is to train."""
    torch.distributed.init_process_group("gloo")
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = small_model(decoder_type="query", cross_attend_path=cross_attend_path)
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        images, labels = pixels(model.config, batch=4)[rank::count], torch.arange(4)[rank::count]
        replica(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
    if rank == 0:
        save_file(model.state_dict(), path)
    torch.distributed.barrier()
    del replica  # before the group: see lab.machine.finish
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cross_attend_path", ["separable", "general"])
def test_replicas_take_the_steps_of_one_process(cross_attend_path, tmp_path):
    arguments = cross_attend_path, str(tmp_path / "weights.safetensors")
    assert run_together(2, replicated_steps, *arguments) == [0, 0]
    model = small_model(decoder_type="query")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values=pixels(model.config, batch=4), labels=torch.arange(4)).loss.backward()
        optimizer.step()
    replicated = load_file(tmp_path / "weights.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(replicated[name], tensor, rtol=1e-4, atol=1e-5)


def sharded_step(path: str):
    """A training step with every layer's weights in halves, as FSDP does it, and what `get_weights` gathers."""
    from torch.distributed.fsdp import fully_shard

    from lab.training.checkpoint import get_weights, set_weights
    from modeling_perceiver_study.attention import PerceiverStudyLayer

    accelerator = Accelerator(cpu=True)
    model = small_model(cross_attend_path="separable")  # of a layer, whose weights are whole while it runs
    for module in model.modules():
        if isinstance(module, PerceiverStudyLayer):
            fully_shard(module)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(pixel_values=pixels(model.config), labels=torch.arange(3)).loss.backward()
    optimizer.step()
    weights = get_weights(accelerator, model)
    if accelerator.is_main_process:
        save_file(weights, path)
    # From the first process, which alone has them, to all.
    set_weights(accelerator, model, {name: tensor + 1 for name, tensor in weights.items()})
    moved = get_weights(accelerator, model)
    assert all(torch.equal(tensor, weights[name] + 1) for name, tensor in moved.items())
    accelerator.end_training()


def test_sharded_layers_take_the_same_step(tmp_path):
    """What the FSDP config asks of the model, with shared blocks used several times, without the GPUs it is for."""
    assert run_together(2, sharded_step, str(tmp_path / "weights.safetensors")) == [0, 0]
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(pixel_values=pixels(model.config), labels=torch.arange(3)).loss.backward()
    optimizer.step()
    sharded = load_file(tmp_path / "weights.safetensors")
    assert sharded.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(sharded[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_judged_is_what_is_saved(folder):
    """Each process has running statistics of its own; those of the first are in the checkpoint."""
    output = folder / "statistics"
    stem = ["model.stem_type=conv", "model.stem_channels=4", "model.image_size=12", "optimization.ema_decay=0.9"]
    given = [f"data.path={folder / 'data'}", f"data.cache_dir={folder / 'cache'}", *stem, "logging.log_with=null"]
    assert run_together(2, train_tiny, *given, f"output_dir={output}") == [0, 0]
    found = json.loads((output / "metrics.json").read_text())
    fresh_accelerate()
    score.main([str(output), "--split", "validation", "--output", str(folder / "scores")])
    scores = json.loads((folder / "scores" / "evaluation.json").read_text())
    assert scores["loss"] == pytest.approx(found["validation_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optimization.ema_decay=0.9", "ema_decay does not work with sharded weights"),
        ("optimization.optimizer=muon", "optimizer=muon does not work with sharded weights"),
        ("model.training_blocks=[1,1]", "training_blocks cannot be drawn with sharded weights"),
    ],
)
def test_what_sharded_weights_cannot_have_is_refused(monkeypatch, option, message):
    fresh_accelerate()
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UserError, match=message):
        build_accelerator(build_task(load_recipe(DEFAULT_RECIPE, [option])))
