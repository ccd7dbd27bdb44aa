"""Label Studio's JSON export: tasks with the image in `data` and the captions in `annotations`."""

from typing import Any

from lib.datasets.formats.document import Annotations, Document
from lib.datasets.formats.ids import parse_id
from lib.datasets.formats.records import find_columns, tables


def read(document: Document) -> Annotations | None:
    tasks = document.json
    if not isinstance(tasks, list) or not tasks or not all(map(_is_task, tasks)):
        return None
    images: dict[Any, tuple[str, str | None]] = {}
    captions, cancelled = [], 0
    for i, task in enumerate(tasks):
        image_id = parse_id(task.get("id", i), f"{document.path}, task {i}")
        images[image_id] = str(task["data"][find_columns(list(task["data"]))["file_name"][0]]), None
        for annotation in task["annotations"]:
            cancelled += bool(annotation.get("was_cancelled"))
            results = [] if annotation.get("was_cancelled") else annotation.get("result", [])
            texts = [text for result in results for text in _texts(result)]
            captions += [(image_id, text) for text in texts if isinstance(text, str)]
    notes = [f"{cancelled} annotations left out, because they are skipped tasks"] if cancelled else []
    return tables(str(document.path), "Label Studio JSON", images, captions, notes)


def _texts(result: Any) -> list[Any]:
    texts = result.get("value", {}).get("text") if isinstance(result, dict) else None
    return texts if isinstance(texts, list) else [texts]


def _is_task(task: Any) -> bool:
    is_task = (
        isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list)
    )
    return is_task and bool(find_columns(list(task["data"]))["file_name"])
