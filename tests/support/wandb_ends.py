"""Both ends of the wandb client: what it writes offline, read back, and a server that it can begin a run with."""

import json
import struct
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a `.wandb` file: LevelDB's log format, behind a header of seven bytes, of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record as Written

    content, place, split = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        room = 2**15 - place % 2**15
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        split += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found = Written()
            found.ParseFromString(split)
            split = b""
            yield found


def items_of(written: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in written}


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    """Name, group, project, config, history and summary of each offline run in a folder."""
    begun = time.monotonic()
    while True:  # the client's other process may still be writing
        runs = [offline_run(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]
        if all(run["finished"] for run in runs) or time.monotonic() - begun > 10:
            return runs
        time.sleep(0.05)


def offline_run(path: Path) -> dict[str, Any]:
    """What a `.wandb` file holds of its run."""
    found: dict[str, Any] = {"history": [], "summary": {}, "finished": False}
    for record in wandb_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "project": run.project}
            found["config"] = items_of(run.config.update)
        elif kind == "history":
            figures = items_of(record.history.item)
            found["history"].append({key: value for key, value in figures.items() if not key.startswith("_")})
        elif kind == "summary":
            found["summary"] |= items_of(record.summary.update)
        elif kind == "exit":
            found["finished"] = True
    return found


class Answering(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs to begin."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        entity = {"name": "me", "id": "e"}
        project = {"id": "p", "name": "salun", "entity": entity}
        bucket = {"id": "b", "name": "r", "displayName": "r", "config": "{}", "project": project, "historyLineCount": 0}
        answer = {
            "upsertBucket": {"bucket": bucket, "inserted": True},
            "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}},
        }
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *text: Any) -> None:
        pass
