#!/usr/bin/env python3
"""Kept libraries that could hold the history's embeddings, measured: usearch, sqlite-vec, lancedb, and vtagd's own matrix of int8 rows.

Rows of 512 numbers of length 1, as they come: in batches of 1000, made durable after each where the library can. Two kinds: `random` directions,
and `clustered`, 16 cameras whose frames are near one another. Told for each store and number of rows: rows/s in, bytes a row on disk, search of
the best 10 (median and worst of 20 queries, one at a time; `cold`: the first query of a new process after the page cache was asked to forget the
files), recall@10 against exact float32, opening, deleting the oldest tenth until the disk has it back, the longest pause of a
writer meanwhile, and what a kill -9 leaves of the rows that were reported durable.

Needs NumPy and, each where it can be had, usearch, sqlite-vec (with pysqlite3-binary), lancedb with pyarrow. vtagd's rows come from `cargo bench --bench history`:
give the program that it names as MATRIX. One JSON object a line; the load of the machine is in each.
Usage: history_stores.py FOLDER [--rows 10000,100000] [--stores a,b] [--kinds random,clustered] [--matrix PROGRAM]
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

try:  # Debian's own Python and pysqlite3-binary load extensions, many other builds do not
    import pysqlite3 as sqlite3
except ImportError:
    import sqlite3

DIM, BATCH, TOP, QUERIES = 512, 1000, 10, 20
STORES = ["usearch", "sqlite-vec", "lancedb", "matrix"]  # lancedb-ivf: on request, training its index takes minutes


def make(path, kind, rows):
    """Rows, then the queries, as float32."""
    rng = np.random.default_rng(7)
    unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
    with open(path, "wb") as out:
        cameras = unit(rng.standard_normal((16, DIM)))
        scenes = unit(cameras[:, None] + 0.6 * unit(rng.standard_normal((16, 200, DIM))))
        for start in range(0, rows, 10_000):
            n = min(10_000, rows - start)
            if kind == "random":
                part = unit(rng.standard_normal((n, DIM), dtype=np.float32))
            else:
                index = np.arange(start, start + n)
                # A scene lasts for 50 frames of its camera.
                base = scenes[index % 16, (index // 800) % 200]
                part = unit(base + 0.25 * unit(rng.standard_normal((n, DIM))))
            part.astype(np.float32).tofile(out)
        queries = unit(cameras[np.arange(QUERIES) % 16] * (kind == "clustered") + unit(rng.standard_normal((QUERIES, DIM))))
        queries.astype(np.float32).tofile(out)


def data(path):
    everything = np.memmap(path, np.float32, "r").reshape(-1, DIM)
    return everything[:-QUERIES], np.array(everything[-QUERIES:])


def exact(rows, queries):
    best = [np.zeros((0, 2))] * len(queries)
    for start in range(0, len(rows), 50_000):
        scores = queries @ rows[start : start + 50_000].T
        for i, row in enumerate(scores):
            top = np.argpartition(-row, TOP)[:TOP]
            both = np.vstack([best[i], np.stack([row[top], top + start], 1)])
            best[i] = both[np.argsort(-both[:, 0])[:TOP]]
    return best


def int8(rows):
    return np.clip(np.rint(rows * (127 / np.abs(rows).max(axis=1, keepdims=True))), -127, 127).astype(np.int8)


class Usearch:
    """HNSW over int8. Kept in memory; `save` writes the whole of it."""

    def __init__(self, folder):
        from usearch.index import Index

        self.path = f"{folder}/index.usearch"
        self.index = Index(ndim=DIM, metric="cos", dtype="i8")
        if os.path.exists(self.path):
            self.index.load(self.path)

    def add(self, first, rows):
        self.index.add(np.arange(first, first + len(rows)), rows, threads=2)

    def sync(self):
        self.index.save(self.path)

    def search(self, query):
        return self.index.search(query, TOP).keys.tolist()

    def evict(self, until):
        self.index.remove(np.arange(until), compact=True, threads=2)
        self.sync()

    def __len__(self):
        return len(self.index)


class SqliteVec:
    """Exact, int8, in SQLite (WAL)."""

    def __init__(self, folder):
        import sqlite_vec

        self.db = sqlite3.connect(f"{folder}/vec.db", check_same_thread=False, timeout=120)
        self.db.enable_load_extension(True)
        sqlite_vec.load(self.db)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute("pragma synchronous=full")
        self.db.execute(f"create virtual table if not exists v using vec0(e int8[{DIM}] distance_metric=cosine)")

    def add(self, first, rows):
        rows = int8(rows)
        values = [(first + i, row.tobytes()) for i, row in enumerate(rows)]
        self.db.executemany("insert into v(rowid, e) values (?, vec_int8(?))", values)
        self.db.commit()

    def sync(self):
        pass

    def search(self, query):
        found = self.db.execute(
            "select rowid from v where e match vec_int8(?) and k = ?", (int8(query[None])[0].tobytes(), TOP)
        )
        return [row[0] for row in found]

    def evict(self, until):
        self.db.execute("delete from v where rowid < ?", (until,))
        self.db.commit()
        self.db.execute("vacuum")
        self.db.execute("pragma wal_checkpoint(truncate)")

    def __len__(self):
        return self.db.execute("select count(*) from v").fetchone()[0]


class Lancedb:
    """float16 (it has no int8 rows), exact."""

    ivf = False

    def __init__(self, folder):
        import lancedb
        import pyarrow as pa

        self.pa = pa
        schema = pa.schema([("id", pa.int64()), ("e", pa.list_(pa.float16(), DIM))])
        self.table = lancedb.connect(folder).create_table("v", schema=schema, exist_ok=True)

    def add(self, first, rows):
        pa = self.pa
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).ravel()), DIM)
        ids = pa.array(np.arange(first, first + len(rows)))
        self.table.add(pa.Table.from_arrays([ids, values], names=["id", "e"]))

    def sync(self):
        pass

    def finish(self):
        from datetime import timedelta

        self.table.optimize(cleanup_older_than=timedelta(0))
        if self.ivf:
            self.table.create_index(metric="cosine", vector_column_name="e", num_partitions=64, num_sub_vectors=32)

    def search(self, query):
        search = self.table.search(query).distance_type("cosine").limit(TOP)
        if self.ivf:
            search = search.nprobes(16).refine_factor(4)
        return [row["id"] for row in search.to_list()]

    def evict(self, until):
        from datetime import timedelta

        self.table.delete(f"id < {until}")
        self.table.optimize(cleanup_older_than=timedelta(0))

    def __len__(self):
        return self.table.count_rows()


class LancedbIvf(Lancedb):
    """IVF_PQ of 64 partitions."""

    ivf = True


KINDS = {"usearch": Usearch, "sqlite-vec": SqliteVec, "lancedb": Lancedb, "lancedb-ivf": LancedbIvf}


def size(folder):
    return sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(folder) for f in files)


def forget(folder):
    """Asks the page cache to let the files go."""
    for at, _, files in os.walk(folder):
        for name in files:
            fd = os.open(os.path.join(at, name), os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def fill(store, rows, every):
    longest = 0
    for start in range(0, len(rows), BATCH):
        began = time.perf_counter()
        store.add(start, np.ascontiguousarray(rows[start : start + BATCH]))
        if (start // BATCH + 1) % every == 0:
            store.sync()
        longest = max(longest, time.perf_counter() - began)
    store.sync()
    return longest


def one(name, path, folder):
    """In a process of its own: fills, then searches, then deletes while another thread goes on writing."""
    rows, queries = data(path)
    store = KINDS[name](folder)
    began = time.perf_counter()
    # usearch writes all of it at each sync: every 10,000 rows is already the mildest.
    fill(store, rows, 10 if len(rows) <= 100_000 else 100)
    told = {"rows_per_second": len(rows) / (time.perf_counter() - began)}
    if hasattr(store, "finish"):
        began = time.perf_counter()
        store.finish()
        told["finish_s"] = time.perf_counter() - began
    told["bytes_a_row"] = size(folder) / len(rows)
    store.search(queries[0])
    times, hits = [], 0
    for query, want in zip(queries, exact(rows, queries)):
        began = time.perf_counter()
        found = store.search(query)
        times.append((time.perf_counter() - began) * 1e3)
        hits += len(set(found) & set(want[:, 1].astype(int)))
    told |= {"search_p50_ms": statistics.median(times), "search_max_ms": max(times), "recall": hits / TOP / QUERIES}
    done, pauses = threading.Event(), []

    def write():
        at = len(rows)
        while not done.is_set():
            began = time.perf_counter()
            try:
                store.add(at, rows[:10])
            except Exception as error:  # locked, say: that is a pause too
                told["write_error"] = str(error)[:80]
            pauses.append(time.perf_counter() - began)
            at += 10
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    began = time.perf_counter()
    store.evict(len(rows) // 10)
    told["evict_tenth_s"] = time.perf_counter() - began
    done.set()
    writer.join()
    told["longest_write_s"] = max(pauses, default=0)
    told["bytes_after"] = size(folder)
    print(json.dumps(told))


def cold(name, path, folder):
    queries = data(path)[1]
    began = time.perf_counter()
    store = KINDS[name](folder)
    opened = time.perf_counter() - began
    began = time.perf_counter()
    store.search(queries[1])
    print(json.dumps({"open_s": opened, "search_cold_ms": (time.perf_counter() - began) * 1e3}))


def write_forever(name, path, folder):
    rows, _ = data(path)
    store = KINDS[name](folder)
    for start in range(0, len(rows), BATCH):
        store.add(start, rows[start : start + BATCH])
        store.sync()
        print(start + BATCH, flush=True)


def killed(name, path, folder):
    """Rows that were reported durable and are gone after a kill -9, in the middle of a write."""
    child = subprocess.Popen([sys.executable, __file__, "--write", name, path, folder], stdout=subprocess.PIPE, text=True)
    reported = 0
    for line in child.stdout:
        reported = int(line)
        if reported >= 5000:
            time.sleep(0.01)
            child.kill()
            break
    child.wait()
    try:
        return reported, max(0, reported - len(KINDS[name](folder)))
    except Exception as error:
        return reported, f"cannot be opened: {str(error)[:60]}"


def sub(*arguments):
    ran = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if ran.returncode != 0:
        return {"error": ran.stderr.strip().splitlines()[-1:]}
    return json.loads(ran.stdout.strip().splitlines()[-1])


def measure(name, path, folder, matrix):
    if name == "matrix":
        ran = subprocess.run([*matrix.split(), path, str(QUERIES), folder], capture_output=True, text=True)
        told = json.loads(ran.stdout.strip().splitlines()[-1]) if ran.returncode == 0 else {"error": ran.stderr[-300:]}
        if "best" in told:
            rows, queries = data(path)
            wants = exact(rows, queries)
            hits = sum(len(set(i for i, _ in found) & set(w[:, 1].astype(int))) for found, w in zip(told["best"], wants))
            told["recall"] = hits / TOP / QUERIES
            near = [abs(score - float(rows[i] @ q)) for found, q in zip(told.pop("best"), queries) for i, score in found]
            told["score_error_max"] = max(near)
        return told
    told = sub("--one", name, path, folder)
    forget(folder)
    told |= sub("--cold", name, path, folder)
    shutil.rmtree(folder)
    os.makedirs(folder)
    told["killed_reported"], told["killed_lost"] = killed(name, path, folder)
    return told


def main():
    if len(sys.argv) == 5 and sys.argv[1] in ("--one", "--cold", "--write"):
        return {"--one": one, "--cold": cold, "--write": write_forever}[sys.argv[1]](*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--kinds", default="clustered,random")
    parser.add_argument("--matrix", default="")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    os.makedirs(asked.folder, exist_ok=True)
    for rows in map(int, asked.rows.split(",")):
        for kind in asked.kinds.split(","):
            path = f"{asked.folder}/{kind}-{rows}.f32"
            make(path, kind, rows)
            for round in range(asked.rounds):
                for name in asked.stores.split(","):
                    if name == "matrix" and not asked.matrix:
                        continue
                    folder = f"{asked.folder}/{name}"
                    shutil.rmtree(folder, ignore_errors=True)
                    os.makedirs(folder)
                    told = {"store": name, "rows": rows, "kind": kind, "round": round, "load": os.getloadavg()[0]}
                    told |= measure(name, path, folder, asked.matrix)
                    print(json.dumps(told), flush=True)
                    shutil.rmtree(folder, ignore_errors=True)
            os.remove(path)


main()
