"""What the clients here have in common: one process that opens connections and keeps them, as an app's pool does.

It reads commands from stdin and answers each with one line:
    open [HOST] log in once more: `ok N WHAT-THE-SERVER-SAW`, or `failed THE-DRIVER'S-OWN-WORDS`
    query N     ask connection N, from 0: the same
The time that it took, in milliseconds, comes first.
"""

import sys
import time

SEEN = "SELECT SEEN()"


def serve(connect, query):
    pool = []
    for line in sys.stdin:
        command, start = line.split(), time.monotonic()
        try:
            if command[0] == "open":
                pool.append(connect(*command[1:]))
            number = int(command[1]) if command[0] == "query" else len(pool) - 1
            answer = f"ok {number} {query(pool[number])}"
        except Exception as error:  # whatever the driver raises is what the app sees
            answer = f"failed {type(error).__name__}: {error}"
        print(round((time.monotonic() - start) * 1000), " ".join(answer.split()), flush=True)
