"""What systemd does for the daemon: holder.py [--forever] SOCKET PIDFILE COMMAND...

Binds the socket, hands it over by LISTEN_FDS, and starts the command again whenever it ends, until standard input is
closed, or with --forever until it is killed. The socket stays.
"""

import os
import signal
import socket
import sys
import threading
import time


def start(listener, pidfile, command):
    pid = os.fork()
    if pid == 0:
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)  # also if it was the third already
        environment = dict(os.environ, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execve(command[0], command, environment)
    with open(f"{pidfile}.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{pidfile}.new", pidfile)
    return pid


def main():
    arguments = sys.argv[1:]
    forever = arguments[0] == "--forever"
    path, pidfile, *command = arguments[forever:]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(128)
    children = []

    def wait_for_the_end():
        sys.stdin.read()
        os.kill(children[-1], signal.SIGKILL)
        os._exit(0)

    children.append(start(listener, pidfile, command))
    if not forever:
        threading.Thread(target=wait_for_the_end, daemon=True).start()
    while True:
        os.waitpid(children[-1], 0)
        time.sleep(0.2)  # RestartSec
        children.append(start(listener, pidfile, command))


if __name__ == "__main__":
    main()
