"""Weights outside an `.onnx` file are never opened, wherever the file hides that it has any."""

import onnx
import pytest

import segfast
from segfast.errors import BadModel


def changed(path, tiny_onnx, change):
    model = onnx.load(tiny_onnx)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def outside(tensor, location="/etc/passwd"):
    for field in ("raw_data", "float_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def external(model, location="/etc/passwd"):
    outside(model.graph.initializer[0], location)


def sparse(part):
    """One part of a sparse tensor, `values` or `indices`, in another file."""
    value = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("s", 1, [1], [1.0]), onnx.helper.make_tensor("i", 7, [1], [0]), [4]
    )
    outside(getattr(value, part))
    return value


def in_training(model):
    outside(model.training_info.add().algorithm.initializer.add(name="t", dims=[1], data_type=1))


def in_a_function(model):
    tensor = onnx.helper.make_tensor("v", 1, [1], [0.0])
    outside(tensor)
    node = onnx.helper.make_node("Constant", [], ["secret"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    imports = [onnx.helper.make_opsetid("", 18)]
    model.functions.append(onnx.helper.make_function("ours", "f", [], ["secret"], [node], imports))


def in_a_sparse_constant(model):
    node = onnx.helper.make_node("Constant", [], ["secret"])
    node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(
        sparse("values")
    )
    model.graph.node.append(node)


def in_a_branch(model):
    node = onnx.helper.make_node("Constant", [], ["secret"], value=onnx.helper.make_tensor("v", 1, [1], [0.0]))
    outside(node.attribute[0].t)
    body = onnx.helper.make_graph([node], "body", [], [onnx.helper.make_tensor_value_info("secret", 1, [1])])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body))


def in_an_overlong_field(path, tiny_onnx):
    """The same, its field numbers written so that readers which keep 32 bits of them see it and others do not."""
    model = onnx.load(tiny_onnx)
    external(model)
    content = model.SerializeToString()
    location = model.graph.initializer[0].external_data[0].SerializeToString()
    plain = bytes([13 << 3 | 2, len(location)]) + location
    assert content.count(plain) == 1
    # The tag gains four bytes, and so do the lengths around it: build those anew.
    tensor = model.graph.initializer[0]
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    hidden = bytes([13 << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x10, len(location)]) + location
    body = tensor.SerializeToString() + hidden
    del model.graph.initializer[0]
    graph = model.graph.SerializeToString() + bytes([5 << 3 | 2]) + varint(len(body)) + body
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString() + bytes([7 << 3 | 2]) + varint(len(graph)) + graph)


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


OUTSIDE = {
    "by an absolute path": external,
    "by a path beside the model": lambda m: external(m, "weights.bin"),
    "by a path above the model": lambda m: external(m, "../../weights.bin"),
    "in a sparse tensor's values": lambda m: m.graph.sparse_initializer.append(sparse("values")),
    "in a sparse tensor's indices": lambda m: m.graph.sparse_initializer.append(sparse("indices")),
    "in a sparse constant": in_a_sparse_constant,
    "in a function": in_a_function,
    "in a graph for training": in_training,
    "inside a branch": in_a_branch,
}


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("where", OUTSIDE)
def test_external_data_is_refused(tmp_path, tiny_onnx, where, runtime):
    path = changed(tmp_path / "a.onnx", tiny_onnx, OUTSIDE[where])
    with pytest.raises(BadModel, match="other files, which are never opened"):
        segfast.Engine(path, runtime=runtime, device="cpu")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_beside_the_model_is_not_followed(tmp_path, tiny_onnx, link):
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    getattr(tmp_path / "weights.bin", link)(tmp_path / "secret")
    path = changed(tmp_path / "a.onnx", tiny_onnx, lambda model: external(model, "weights.bin"))
    with pytest.raises(BadModel, match="other files, which are never opened"):
        segfast.Engine(path, device="cpu")


def test_a_field_number_that_others_cut_short_is_refused(tmp_path, tiny_onnx):
    in_an_overlong_field(tmp_path / "a.onnx", tiny_onnx)
    with pytest.raises(BadModel, match=r"no whole ONNX file.*field number"):
        segfast.Engine(tmp_path / "a.onnx", device="cpu")


def test_a_model_behind_a_link_is_opened(tmp_path, tiny_onnx):
    (tmp_path / "a.onnx").symlink_to(tiny_onnx)
    assert segfast.Engine(tmp_path / "a.onnx", device="cpu").output == "logits"
