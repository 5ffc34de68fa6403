"""NNCF's post-training quantisation of one file, in a separate process: ``python -m carkp.deploy.nncf_process``.

The process is separate because the imported packages print, and send usage data unless the environment forbids it.
"""

import sys

import nncf
import numpy as np
import openvino


def main(source: str, images_path: str, path: str) -> None:
    """Quantise the ONNX file ``source`` with the images of an .npy file; write OpenVINO's XML ``path``."""
    images = np.load(images_path, mmap_mode="r", allow_pickle=False)
    model = openvino.Core().read_model(source)
    dataset = nncf.Dataset([np.array(image[None]) for image in images])
    quantised = nncf.quantize(model, dataset, subset_size=len(images))
    openvino.save_model(quantised, path, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
