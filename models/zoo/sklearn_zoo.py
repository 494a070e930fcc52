# SPDX-License-Identifier: Apache-2.0
"""scikit-learn, LightGBM and XGBoost models of the digits; trees and kernels have nothing that could be pruned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

ROWS = 400


def write(estimator: Any, path: Path) -> None:
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels[:ROWS] / 16).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough for random-looking weights
        estimator.fit(pixels, digits[:ROWS])
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    path.write_bytes(to_onnx(estimator, pixels[:1], options=options, target_opset=17).SerializeToString())


def boosted(kind: str, path: Path) -> None:
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    pixels, digits = load_digits(return_X_y=True)
    inputs = [("pixels", FloatTensorType([None, 64]))]
    if kind == "lightgbm":
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(pixels, digits)
        proto = convert_lightgbm(model, initial_types=inputs, target_opset=15, zipmap=False)
    else:
        from xgboost import XGBClassifier

        model = XGBClassifier(n_estimators=5, n_jobs=1).fit(pixels, digits)
        proto = convert_xgboost(model, initial_types=inputs, target_opset=15)
    path.write_bytes(proto.SerializeToString())


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    hidden = {"max_iter": 5, "random_state": 0}
    estimators = {
        "mlp_classifier": MLPClassifier(hidden_layer_sizes=(256, 128), **hidden),
        "mlp_tanh": MLPClassifier(hidden_layer_sizes=(128,), activation="tanh", **hidden),
        "mlp_regressor": MLPRegressor(hidden_layer_sizes=(128, 64), **hidden),
        "scaled_mlp": make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(128, 64), **hidden)),
        "pca_logistic": make_pipeline(PCA(32), LogisticRegression(max_iter=5)),
        "random_forest": RandomForestClassifier(10, random_state=0),
        "gradient_boosting": GradientBoostingClassifier(n_estimators=3, random_state=0),
        "svm_rbf": SVC(random_state=0),
    }
    made = {name: partial(write, estimator) for name, estimator in estimators.items()}
    return {**made, "lightgbm": partial(boosted, "lightgbm"), "xgboost": partial(boosted, "xgboost")}
