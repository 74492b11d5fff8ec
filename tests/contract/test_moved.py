"""The public names of version 0.1 still work; those that moved warn, once, with the new place."""

from __future__ import annotations

import importlib
import sys

import pytest

from tinyclip_edge.errors import TinyClipWarning
from tinyclip_edge.moved import MODULES, NAMES

# As version 0.1 exported them.
PUBLIC = {
    "tinyclip_edge": "EdgeCLIP __version__",
    "tinyclip_edge.config": "AlsoConfig DataConfig InheritConfig LossConfig MasksConfig "
    "OptimConfig RunConfig RunSection StageConfig StudentConfig TeacherConfig as_steps "
    "config_names configs_path dump_config flatten load_config",
    "tinyclip_edge.data": "Augment BadSamples Batch Count Crops FeatureStore FeatureTable KeptRows "
    "Losses Pair PairMemory PairSource PartFeatures PixelCodec Prefetch StreamingPairs "
    "TeacherFeatures UndecodableImageError check_source decode_image open_source read_shard",
    "tinyclip_edge.evaluate": "BenchReport Comparison EvalReport EvalSet HundredWay Latency "
    "ModelLatency Retrieval ZeroShot bench_models check_openable check_set compare_models "
    "evaluate_model evaluation_set hundred_way measure_latency open_embedder retrieval "
    "retrieval_of_features zero_shot",
    "tinyclip_edge.inherit": "ClipShape InheritancePlan InheritanceReport LayerChoice ResNetPlan "
    "Taken TowerPlan TowerReport TowerShape choose_layers inherit_uniform plan_uniform",
    "tinyclip_edge.losses": "AffinityTerms FeatureKind FeatureProjector affinity_loss "
    "contrastive_loss feature_loss gather_with_grad",
    "tinyclip_edge.models": "ZOO Conversion LoadedClip ParameterCount TorchEmbedder ZooEntry "
    "check_checkpoint check_config check_model convert_checkpoint count_parameters create_student "
    "inherit_student load_clip newest_models newest_run save_huggingface save_local_dir "
    "student_folder teacher_rows weights_hash zoo_rows zoo_table",
    "tinyclip_edge.runtime.compress": "recall_cost",
    "tinyclip_edge.runtime.protocol": "Embedder",
    "tinyclip_edge.starter": "SPLITS kit_path teacher_path",
    "tinyclip_edge.train": "Observer ProgressObserver RunResult StepReport distill read_events",
    "tinyclip_edge.train.report": "WrittenReport leave_report write_report",
    "tinyclip_export": "ExportReport export_bundle",
    "tinyclip_export.report": "ExportReport",
}


def forget(monkeypatch, module):
    """Have a module imported anew; as pytest ends, everything is as it was."""
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.filterwarnings("ignore::tinyclip_edge.errors.TinyClipWarning")
@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_of_0_1_is_importable(module):
    for name in PUBLIC[module].split():
        assert getattr(importlib.import_module(module), name) is not None, name


@pytest.mark.parametrize("old", MODULES)
def test_a_moved_module_is_the_new_one_and_warns(monkeypatch, old):
    new = importlib.import_module(MODULES[old])
    spec = new.__spec__
    forget(monkeypatch, old)
    with pytest.warns(TinyClipWarning) as caught:
        __import__(old)
    assert sys.modules[old] is new
    assert [str(warning.message) for warning in caught] == [
        f"{old} is {MODULES[old]} now; the old name works until 0.3"
    ]
    assert caught[0].filename == __file__
    assert new.__name__ == MODULES[old] and new.__spec__ is spec


@pytest.mark.filterwarnings("ignore::tinyclip_edge.errors.TinyClipWarning")
def test_modules_below_a_moved_one_move_with_it(monkeypatch):
    importlib.import_module("tinyclip_edge.evaluate")
    forget(monkeypatch, "tinyclip_edge.evaluate.sets")
    with pytest.warns(TinyClipWarning, match=r"evaluate\.sets is .*evaluation\.sets now"):
        old = importlib.import_module("tinyclip_edge.evaluate.sets")
    assert old is importlib.import_module("tinyclip_edge.evaluation.sets")


@pytest.mark.parametrize("old", NAMES)
def test_a_moved_name_is_the_new_one_and_warns(old):
    module, _, name = old.rpartition(".")
    new_module, _, new_name = NAMES[old].rpartition(".")
    package = importlib.import_module(module)
    with pytest.warns(TinyClipWarning, match=f"^{old} is {NAMES[old]} now") as caught:
        value = getattr(package, name)
    assert caught[0].filename == __file__
    assert value is getattr(importlib.import_module(new_module), new_name)


def test_unknown_names_stay_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'tinyclip_edge\.evaluator'"):
        importlib.import_module("tinyclip_edge.evaluator")
    with pytest.raises(ModuleNotFoundError, match=r"tinyclip_edge\.evaluation\.nothing"):
        importlib.import_module("tinyclip_edge.evaluate.nothing")
    with pytest.raises(AttributeError, match=r"'tinyclip_edge\.data' has no attribute 'Nothing'"):
        importlib.import_module("tinyclip_edge.data").Nothing  # noqa: B018
