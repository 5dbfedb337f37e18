"""Every way to get labels from one uint8 image on this CPU: the original's, stock deployments, and ours.

A column is a function from a uint8 image [H, W, 3] to labels [H, W] on the host. The stock export is what
one does without segfast: the whole eager model, logits of all classes at full resolution, argmax on the host.
"""

import threading

import torch

import segfast
from segfast.export import check, export_onnx
from segfast.export.graph import at_size

HALF = "bf16"                                                           # OpenVINO's half precision on x86


def eager(model, size):
    """The original's algorithm in plain PyTorch, fp32: unfused attention, upsampling, argmax."""
    fixed = at_size(model, (size, size))

    @torch.inference_mode()
    def call(image):
        return fixed(check.normalise(image, model.config.protocol))[0].argmax(0).numpy()

    return fixed, call


def compiled(fixed, protocol):
    """The same under torch.compile."""
    network = torch.compile(fixed)

    @torch.inference_mode()
    def call(image):
        return network(check.normalise(image, protocol))[0].argmax(0).numpy()

    return call


def stock_file(fixed, size, path):
    """The stock export: fp32 images in, full-resolution logits out."""
    example = torch.zeros(1, 3, size, size)
    torch.onnx.export(fixed, (example,), path, opset_version=18, dynamo=False, input_names=["images"], output_names=["logits"])
    return path


def stock_onnxruntime(path, protocol):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return _stock(lambda x: session.run(None, {"images": x})[0], protocol)


def stock_openvino(path, protocol, precision):
    import openvino

    # As our own runtime does: a Core's plugin is loaded by a thread that ends (segfast/runtimes/openvino.py).
    made = []

    def load():
        hint = {"fp32": "f32"}.get(precision, precision)
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        made.append(openvino.Core().compile_model(path, "CPU", options))

    loader = threading.Thread(target=load)
    loader.start()
    loader.join()
    request = made[0].create_infer_request()
    return _stock(lambda x: request.infer({0: x})[0], protocol)


def _stock(network, protocol):
    def call(image):
        logits = network(check.normalise(image, protocol).numpy())
        return torch.from_numpy(logits)[0].argmax(0).numpy()            # faster than NumPy's

    return call


def ours(model, size, folder):
    """Our engines by column; the files are made here, and not timed."""
    paths = {}
    for precision in ("fp32", "fp16"):
        paths[precision] = folder / f"ours-{precision}.onnx"
        export_onnx(model, paths[precision], size=size, precision=precision)
    engines = {
        "segfast-onnxruntime-fp32": segfast.Engine(paths["fp32"], runtime="onnxruntime", device="cpu"),
        "segfast-openvino-fp32": segfast.Engine(paths["fp32"], runtime="openvino", device="cpu"),
        f"segfast-openvino-{HALF}": segfast.Engine(paths["fp16"], runtime="openvino", device="cpu"),
        "segfast-pytorch-fp32": segfast.Engine(model, device="cpu", precision="fp32"),
        f"segfast-pytorch-{HALF}": segfast.Engine(model, device="cpu", precision=HALF),
    }
    return {name: (lambda image, engine=engine: engine.segment(image).labels) for name, engine in engines.items()}
