"""Files that an ONNX file refers to, against those that onnx itself writes into it."""

import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper

from tinyclip_edge.runtime.external_tensors import external_locations, refuse_outside_files
from tinyclip_edge.runtime.session import OnnxSession


def external(location):
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("length", "16"), ("location", location), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def graph(*nodes, tensors=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(list(nodes), "g", [], [output], list(tensors))


def constant(tensor):
    return helper.make_node("Constant", [], ["y"], value=tensor)


def attributed(kind, field, value):
    attribute = AttributeProto(name="a", type=kind)
    getattr(attribute, field).append(value) if field.endswith("s") else getattr(
        attribute, field
    ).CopyFrom(value)
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.append(attribute)
    return graph(node)


def in_graph(tensor):
    return helper.make_model(graph(tensors=[tensor]))


def in_constant(tensor):
    return helper.make_model(graph(constant(tensor)))


def in_branch(tensor):
    branch = graph(constant(tensor))
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=graph())
    return helper.make_model(graph(node))


def in_list(tensor):
    return helper.make_model(attributed(AttributeProto.TENSORS, "tensors", tensor))


def in_sparse(tensor):
    model = helper.make_model(graph())
    model.graph.sparse_initializer.append(SparseTensorProto(values=tensor))
    return model


def in_sparse_attribute(tensor):
    value = SparseTensorProto(indices=tensor)
    kind = AttributeProto.SPARSE_TENSOR
    return helper.make_model(attributed(kind, "sparse_tensor", value))


def in_function(tensor):
    opset = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "f", [], ["y"], [constant(tensor)], opset)
    return helper.make_model(graph(), functions=[function])


PLACES = [
    in_graph, in_constant, in_branch, in_list, in_sparse, in_sparse_attribute, in_function,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_every_place_of_a_tensor_is_read(tmp_path, place):
    file = tmp_path / "model.onnx"
    file.write_bytes(place(external("../secret")).SerializeToString())
    assert external_locations(file) == {"../secret"}
    with pytest.raises(ValueError, match=r"a tensor's file '\.\./secret' is not in"):
        refuse_outside_files(file)


def test_files_beside_the_model_are_allowed(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(in_graph(external("weights.bin")).SerializeToString())
    with pytest.raises(ValueError, match=r"'weights\.bin'"):
        refuse_outside_files(file)  # absent: onnxruntime 1.23 has names of its own for memory
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    refuse_outside_files(file)


def test_a_repeated_location_is_read_completely(tmp_path):
    """Readers of protobuf take the last one, and join a message that comes in two parts."""
    file = tmp_path / "model.onnx"
    parts = [in_graph(external(name)).SerializeToString() for name in ("a", "b")]
    file.write_bytes(b"".join(parts))
    assert external_locations(file) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [b"", b"\x3a", b"\x3a\xff\x01", b"\x3b\x00", b"\x3f", b"\x80" * 12, b"\x3a\x05\x2a"],
    ids=["empty", "no length", "cut off", "group", "unknown type", "endless number", "short"],
)
def test_what_is_no_protobuf_is_refused(tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"protobuf|cut off|empty file|nested"):
        external_locations(file)


def test_a_model_of_the_export_has_none(shared_tiny_bundle, monkeypatch):
    monkeypatch.setattr("tinyclip_edge.runtime.session.READS_OUTSIDE_FILES", True)
    for file in (shared_tiny_bundle.folder / "onnx").glob("*.onnx"):
        assert external_locations(file) == set()
        OnnxSession(file)
