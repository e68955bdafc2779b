#!/usr/bin/python3
"""odbc.py CONNECTION-STRING: a pool (see pool.py) by unixODBC and the driver that the string names."""

import ctypes
import sys

from pool import SEEN, serve

ENVIRONMENT, CONNECTION, STATEMENT = 1, 2, 3
NTS, SUCCESS = -3, (0, 1)
odbc = ctypes.CDLL("libodbc.so.2")


class OdbcError(Exception):
    pass


def check(code, kind, handle):
    if code in SUCCESS:
        return
    state, native, text, length = ctypes.create_string_buffer(6), ctypes.c_int(), ctypes.create_string_buffer(1024), ctypes.c_short()
    words = []
    while odbc.SQLGetDiagRec(kind, handle, len(words) + 1, state, ctypes.byref(native), text, 1024, ctypes.byref(length)) in SUCCESS:
        words.append(f"[{state.value.decode()}]{text.value.decode()}")
    raise OdbcError("; ".join(words) or f"code {code}")


def allocate(kind, parent):
    handle = ctypes.c_void_p()
    if odbc.SQLAllocHandle(kind, parent, ctypes.byref(handle)) not in SUCCESS:
        raise OdbcError(f"no handle of kind {kind}")
    return handle


environment = allocate(ENVIRONMENT, None)
odbc.SQLSetEnvAttr(environment, 200, ctypes.c_void_p(3), 0)  # ODBC 3


def connect():
    connection = allocate(CONNECTION, environment)
    try:
        string = sys.argv[1].encode()
        check(odbc.SQLDriverConnect(connection, None, string, NTS, None, 0, None, 0), CONNECTION, connection)
    except OdbcError:
        odbc.SQLFreeHandle(CONNECTION, connection)
        raise
    return connection


def query(connection):
    statement, text, length = allocate(STATEMENT, connection), ctypes.create_string_buffer(1024), ctypes.c_ssize_t()
    try:
        check(odbc.SQLExecDirect(statement, SEEN.encode(), NTS), STATEMENT, statement)
        check(odbc.SQLFetch(statement), STATEMENT, statement)
        check(odbc.SQLGetData(statement, 1, 1, text, 1024, ctypes.byref(length)), STATEMENT, statement)
        return text.value.decode()
    finally:
        odbc.SQLFreeHandle(STATEMENT, statement)


serve(connect, query)
