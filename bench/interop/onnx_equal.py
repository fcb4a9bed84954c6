"""Our ONNX networks beside onnxruntime: equal outputs first, then speed.

    python bench/interop/onnx_equal.py EXAMPLE WEIGHTS PICTURES        compare, on 100 pictures
    python bench/interop/onnx_equal.py golden models/tests/golden      make the small golden file

EXAMPLE is the built `models/examples/onnx.rs`, WEIGHTS a folder with the networks of the judges,
PICTURES a folder of pictures. Needs numpy, onnx, onnxruntime, pillow.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


def inputs_of(model, files):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    shape = [side if isinstance(side, int) else default for side, default in zip(shape, [1, 3, 320, 416])]
    nhwc = shape[-1] == 3
    height, width = (shape[1], shape[2]) if nhwc else (shape[2], shape[3])
    values = []
    for file in files:
        rgb = Image.open(file).convert("RGB").resize((width, height), Image.BILINEAR)
        rgb = np.asarray(rgb, np.float32)
        if nhwc:  # open_nsfw
            value = rgb[:, :, ::-1] - np.array([104, 117, 123], np.float32)
        elif "yunet" in model.name:
            value = rgb[:, :, ::-1].transpose(2, 0, 1)
        else:  # ultraface
            value = ((rgb - 127) / 128).transpose(2, 0, 1)
        values.append(np.ascontiguousarray(value[None], np.float32))
    return session, [1, *values[0].shape[1:]], values


def compare(example, weights, pictures):
    files = sorted(p for p in pathlib.Path(pictures).rglob("*") if p.suffix in (".jpg", ".png"))[:100]
    for model in sorted(pathlib.Path(weights).rglob("*.onnx")):
        session, shape, values = inputs_of(model, files)
        name = session.get_inputs()[0].name
        began = time.time()
        theirs = [session.run(None, {name: value}) for value in values]
        peer = len(values) / (time.time() - began)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "in").write_bytes(np.concatenate(values).tobytes())
            call = [example, str(model), str(folder / "in"), ",".join(map(str, shape)), str(folder / "out")]
            said = subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()
            ours = np.frombuffer((folder / "out").read_bytes(), np.float32)
        flat = np.concatenate([value.ravel() for outputs in theirs for value in outputs])
        if ours.shape != flat.shape:
            print(f"INVALID {model.name}: {ours.shape} numbers for {flat.shape}")
            continue
        error = np.abs(ours - flat).max() / np.abs(flat).max()
        verdict = "" if error < 1e-4 else "INVALID "
        print(f"{verdict}{model.name}: {len(values)} pictures, largest difference {error:.1e} of the largest; "
              f"ours {said}, onnxruntime {peer:.2f} inputs/s")


def golden(folder):
    """A network with every operator, its input and onnxruntime's output."""
    random = np.random.default_rng(0)
    weights, nodes = [], []

    def weight(name, array):
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(name, *shape):
        return weight(name, random.normal(size=shape).astype(np.float32) * 0.4)

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    x = node("Conv", ["x", normal("w1", 6, 3, 3, 3), normal("b1", 6)], "c1", kernel_shape=[3, 3],
             strides=[2, 2], pads=[1, 1, 1, 1])
    x = node("BatchNormalization", [x, normal("s", 6), normal("o", 6), normal("m", 6),
             weight("v", random.uniform(0.5, 2, 6).astype(np.float32))], "bn", epsilon=1e-3)
    x = node("LeakyRelu", [x], "lr", alpha=0.1)
    x = node("Conv", [x, normal("w2", 6, 1, 3, 3)], "c2", kernel_shape=[3, 3], group=6, pads=[2, 2, 2, 2], dilations=[2, 2])
    x = node("Clip", [x, weight("low", np.float32(-1.5)), weight("high", np.float32(1.5))], "cl")
    x = node("Conv", [x, normal("w3", 4, 3, 1, 1), normal("b3", 4)], "c3", kernel_shape=[1, 1], group=2)
    p = node("MaxPool", [x], "mp", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    a = node("AveragePool", [x], "ap", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    r = node("Resize", [node("MaxPool", [x], "m2", kernel_shape=[2, 2], strides=[2, 2]), weight("roi", np.array([], np.float32)),
             weight("scales", np.array([1, 1, 2, 2], np.float32))], "rs", mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    slope = normal("slope", 4, 1, 1)
    r = node("PRelu", [r, slope], "pr")
    g = node("GlobalAveragePool", [node("Sigmoid", [r], "sg")], "gap")
    f = node("Flatten", [g], "fl")
    y = node("Gemm", [f, normal("w4", 5, 4), normal("b4", 5)], "gm", transB=1)
    y = node("Softmax", [node("Relu", [y], "re")], "y", axis=1)
    # What exporters write to keep the batch's side: Shape, Gather, Unsqueeze, Concat, Reshape.
    shape = node("Shape", [p], "sh")
    n = node("Gather", [shape, weight("zero", np.int64(0))], "ga", axis=0)
    n = node("Unsqueeze", [n], "un", axes=[0])
    target = node("Concat", [n, weight("rest", np.array([-1, 4], np.int64))], "tg", axis=0)
    t = node("Transpose", [node("Add", [p, a], "ad")], "tr", perm=[0, 2, 3, 1])
    t = node("Reshape", [t, target], "rh")
    front = node("Slice", [t, weight("st", np.array([0], np.int64)), weight("en", np.array([2], np.int64)),
                 weight("ax", np.array([2], np.int64))], "fr")
    back = node("Slice", [t, weight("s2", np.array([2], np.int64)), weight("e2", np.array([2**63 - 1], np.int64)),
                weight("a2", np.array([-1], np.int64))], "bk")
    back = node("Div", [node("Exp", [back], "ex"), weight("two", np.float32(2))], "dv")
    front = node("Mul", [node("Sub", [front, back], "sb"), weight("half", np.float32(0.5))], "mu")
    z = node("Concat", [front, back], "z", axis=2)
    z = node("MatMul", [z, normal("w5", 4, 3)], "mm")
    node("Squeeze", [node("Identity", [z], "id")], "out", axes=[0])
    graph = helper.make_graph(
        nodes, "every operator", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5]),
         helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.checker.check_model(model)
    x = random.normal(size=(1, 3, 16, 12)).astype(np.float32).round(3)
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    folder = pathlib.Path(folder)
    (folder / "onnx_small.onnx").write_bytes(model.SerializeToString())
    case = {"shape": x.shape, "input": x.ravel().tolist(),
            "outputs": [{"shape": o.shape, "numbers": [round(float(v), 7) for v in o.ravel()]} for o in outputs]}
    (folder / "onnx_small.json").write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        golden(sys.argv[2])
    else:
        compare(*sys.argv[1:4])
