#!/usr/bin/python3
"""freetds.py HOST: a pool (see pool.py) by the pymssql on PYTHONPATH."""

import sys

import pymssql

from pool import SEEN, serve


def query(connection):
    cursor = connection.cursor()
    cursor.execute(SEEN)
    return cursor.fetchone()[0]


serve(lambda: pymssql.connect(server=sys.argv[1], login_timeout=60), query)
