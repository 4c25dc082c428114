"""What an image classifier answers and refuses."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from vision_pictures import LABELS, image_file, shade

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError, NotFoundError, UnsupportedError
from taskloom.core.predictor import Predictor, validated
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.core.types import InferCall, ModelRef
from taskloom.core.wire.codec import request_from_message, request_to_message
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.vision.image_files import MAX_BYTES
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.plugin import VisionTask
from taskloom.plugins.tasks.vision.schema import NetworkSettings, TrainConfig, VisionInput, VisionOutput, VisionParams

SMALL = NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1))


def ready(model: VisionModel, precision: Any = "fp32") -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision=precision, device="cpu", threads=1))
    return Predictor(VisionTask(), model, runtime.load(model, None, plan))


def small(**options: Any) -> VisionModel:
    torch.manual_seed(4)
    return VisionModel.build(LABELS, network=SMALL, size=16, **options)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- inputs ---------------------------------------------------------------------------------------------------------------


def test_bytes_and_base64_are_the_same_input() -> None:
    data = shade("dark", 0)
    sent = validated(VisionInput, {"image": encoded(data)}, "input")
    assert sent == VisionInput(image=data)
    assert sent.model_dump(mode="json") == {"image": encoded(data)}
    assert VisionInput.model_validate_json(sent.model_dump_json()).image == data


def test_a_picture_is_not_printed_into_logs() -> None:
    assert len(repr(VisionInput(image=shade("dark", 0)))) < 40


def test_a_picture_travels_as_bytes_and_comes_back_whole() -> None:
    data = shade("light", 2)
    call = InferCall(model=ModelRef(name="m"), input={"image": encoded(data)}, typed_as="vision")
    message = request_to_message(call)
    assert message.vision.image == data
    received = request_from_message(type(message).FromString(message.SerializeToString()), None)
    assert validated(VisionInput, received.input, "input").image == data


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "these 0 bytes are not a JPEG"),
        ("not base64!", "no base64"),
        ("data:image/png;base64," + encoded(shade("dark", 0)), "nothing before it"),
        (encoded(shade("dark", 0))[:-1], "no base64"),
        ("你好", "no base64"),
        ("\ud800", "no base64"),
        ("A" * (2 * MAX_BYTES), "letters of base64"),
        (bytearray(b"x"), "the image is a bytearray; send"),
        ("/etc/passwd", "no base64"),
        (encoded(b"/home/me/cat.png"), "these 16 bytes are not a JPEG"),
    ],
    ids=range(10),
)
def test_what_is_no_picture_is_refused_before_any_model_sees_it(value: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told) as caught:
        validated(VisionInput, {"image": value}, "input")
    assert caught.value.field == "input.image"
    assert len(str(caught.value)) < 400


def test_the_registry_knows_vision_without_importing_pillow_or_torch() -> None:
    code = (
        "import sys; from taskloom.core import load_registry; task = load_registry().tasks.get('vision'); "
        "found = task.Input.model_validate(task.Input.model_json_schema()['examples'][0]); task.cost(found, task.Params()); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("size", "cost"), [((1, 1), 1), ((28, 28), 4), ((224, 224), 196), ((640, 480), 200), ((4000, 3000), 379)]
)
def test_cost_is_the_patches_that_a_model_looks_at_and_a_share_for_decoding(size: tuple[int, int], cost: int) -> None:
    data = image_file(Image.new("1", size))
    assert VisionTask().cost(VisionInput(image=data), VisionParams()) == cost


# -- answers --------------------------------------------------------------------------------------------------------------


def decoded(model: VisionModel, logits: list[float], **params: Any) -> VisionOutput:
    outputs = {"logits": torch.tensor([logits]), "sizes": torch.tensor([[40, 30]])}
    return model.decode(outputs, [VisionInput(image=shade("dark", 0))], [VisionParams(**params)])[0]


def test_scores_are_a_distribution_best_first_and_cut_as_asked() -> None:
    model = small()
    whole = decoded(model, [0.0, 2.0, 1.0])
    assert [found.label for found in whole.labels] == ["light", "红", "dark"]
    assert sum(found.score for found in whole.labels) == pytest.approx(1)
    assert (whole.width, whole.height) == (40, 30)
    assert [x.label for x in decoded(model, [0.0, 2.0, 1.0], top_k=1).labels] == ["light"]
    assert [x.label for x in decoded(model, [0.0, 2.0, 1.0], threshold=0.2).labels] == ["light", "红"]


def test_the_size_is_told_as_it_was_sent() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = ready(small()).predict_one(VisionInput(image=image_file(Image.new("RGB", (50, 20)), "JPEG", exif=exif)))
    assert (answer.width, answer.height) == (50, 20)


def test_a_mirrored_model_answers_alike_for_a_picture_and_its_mirror_image() -> None:
    picture = Image.open(BytesIO(shade("light", 3)))
    pair = [VisionInput(image=image_file(p)) for p in (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    for mirrored in (True, False):
        model = small(mirrored=mirrored)
        model.module.eval()
        one, other = model.forward(model.encode(pair))["logits"]
        assert torch.allclose(one, other, atol=1e-5) == mirrored


def test_a_damaged_picture_fails_alone() -> None:
    data = shade("dark", 1)
    broken = VisionInput(image=data[:-30] + b"\x00" * 18 + data[-12:])
    whole = VisionInput(image=data)
    answers = ready(small()).predict([whole, broken, whole])
    assert isinstance(answers[1], InvalidInputError)
    assert answers[1].field == "input.image"
    assert isinstance(answers[0], VisionOutput)
    assert answers[0] == answers[2]


def test_half_precision_gives_nearly_the_same_answers() -> None:
    inputs = [VisionInput(image=shade(label, 7)) for label in LABELS]
    full, half = (ready(small(), precision).predict(inputs, [VisionParams()] * 3) for precision in ("fp32", "bf16"))
    for one, other in zip(full, half, strict=True):
        scores = [{x.label: x.score for x in answer.labels} for answer in (one, other)]
        assert all(abs(scores[0][label] - scores[1][label]) < 0.03 for label in LABELS)


def test_larger_pictures_are_cut_around_the_middle_and_not_squashed() -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    pixels = small().encode([VisionInput(image=image_file(Image.fromarray(wide)))])["pixels"]
    assert pixels.shape == (1, 3, 16, 16)
    assert int(pixels.min()) == 255


def test_warm_up_meets_batches_of_one_and_of_the_whole_budget() -> None:
    model = small()
    assert [len(batch["sizes"]) for batch in model.warm_up(1024)] == [1, 2, 4, 8, 16, 32, 64]
    assert [len(batch["sizes"]) for batch in model.warm_up(5)] == [1, 2, 4, 5]


# -- checkpoints and artifacts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_an_imported_checkpoint_answers_as_transformers_does(kind: str, image_checkpoint: Callable[..., str]) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = image_checkpoint(kind)
    model = VisionModel.import_checkpoint(folder)
    assert model.labels == LABELS
    pictures = [Image.open(BytesIO(shade("light", 1, size))) for size in ((64, 48), (40, 80), (64, 48))]
    with torch.inference_mode():
        batch = model.encode([VisionInput(image=image_file(picture)) for picture in pictures])
        mine = model.forward(batch)["logits"]
        network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
        processor = AutoImageProcessor.from_pretrained(folder)
        theirs = [network(**processor(images=picture, return_tensors="pt")).logits[0] for picture in pictures]
    torch.testing.assert_close(mine, torch.stack(theirs), atol=1e-4, rtol=1e-4)


def test_an_imported_artifact_needs_nothing_else(image_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    folder = Path(image_checkpoint("vit"))
    artifact = publish(VisionTask(), VisionModel.import_checkpoint(str(folder)), ModelStore([tmp_path]))
    folder.rename(folder.with_name("gone"))
    assert VisionModel.load(artifact).labels == LABELS


def test_a_checkpoint_for_several_labels_judges_each_for_itself(image_checkpoint: Callable[..., str]) -> None:
    model = VisionModel.import_checkpoint(image_checkpoint("vit", problem_type="multi_label_classification"))
    assert [x.label for x in decoded(model, [3.0, -1.0, 1.0]).labels] == ["dark", "红"]
    with pytest.raises(UnsupportedError, match="a row has one label"):
        model.collate([Example(input=VisionInput(image=shade("dark", 0)), target="dark")])


def test_what_is_no_image_classifier_is_refused(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedError, match="no image classifier"):
        VisionModel.import_checkpoint(str(checkpoint("bert")))
    with pytest.raises(NotFoundError, match="no backbone 'nobody/nothing'"):
        VisionModel.import_checkpoint("nobody/nothing")


def test_an_own_artifact_is_one_file_and_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    artifact = publish(VisionTask(), small(), ModelStore([tmp_path]))
    assert set(artifact.manifest.files) == {"network.safetensors"}
    other = artifact.manifest.model_copy(update={"config": {**artifact.manifest.config, "channels": 1, "mean": (0.5,)}})
    with pytest.raises(ArtifactError, match="not this model's network"):
        VisionTask().load(Artifact(artifact.folder, other), SharedParts())
    strange = artifact.manifest.model_copy(update={"config": {"form": "unheard"}})
    with pytest.raises(ArtifactError, match="no image classifier's"):
        VisionTask().load(Artifact(artifact.folder, strange), SharedParts())


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="there is no backbone"):
        TrainConfig(frozen_backbone=True)
    with pytest.raises(ValidationError, match="one of each a stage"):
        NetworkSettings(widths=(8, 16), blocks=(1,))
