"""One recorder and servers with names, which are heard of, drained, killed and started again."""

import dataclasses
import os
import signal
import threading

from support.several_edges import SeveralEdges

from rrto_ros.edge.gate import Gate
from rrto_ros.edge.table import SessionTable
from rrto_ros.errors import UnavailableError

HEARD_EVERY_S = 0.1


class NamedEdges(SeveralEdges):
    """A recorder, and a server for each name. What a dead one says or is told is lost.

    Args:
        arguments, named: As `SeveralEdges` takes them; the second is the SessionConfig.
        names: Of the servers. With a directory for uploads each has a folder of its own in it.

    Attributes:
        names: Table -> name of the server.
        draining: Names of servers whose status says so.
    """

    def __init__(self, *arguments, names=("east", "west"), **named):
        self._servers = arguments[1].choice.servers
        self._to_name = list(names)
        self._dead = set()
        self.names, self.draining = {}, set()
        self._blocked, self._first = False, set()
        named = {"confinement": "off", **named}
        super().__init__(*arguments, count=len(names), **named)
        self._statuses = threading.Thread(target=self._say)
        self._statuses.start()

    def make_table(self, name=""):
        name = name or self._to_name.pop(0)
        made = []

        def says(message):
            if made[0] not in self._dead:
                self.down.put(message)

        settings, uploads = self.settings, self.settings.blob_directory
        if uploads is not None:
            settings = dataclasses.replace(settings, blob_directory=uploads / name)
        table = SessionTable(
            settings, says, self.events.put, self.lines.append, Gate(None, name=name)
        )
        made.append(table)
        table.has_company = True
        self.names[table] = name
        return table

    def block(self):
        """What is for sessions that are opened from now on, but the first one, is held up."""
        self._blocked = True

    def unblock(self):
        """From now on it arrives again, as messages that are sent anew."""
        self._blocked = False

    def receive(self, message):
        if self._blocked and message.session not in self._first and message.data:
            return
        if self._owner.get(message.session) not in self._dead:
            super().receive(message)

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        if not self.tables:
            raise UnavailableError("no server is there")
        answer = super().open_session(request, timeout_s, believes, patience_s)
        if answer is None:
            raise UnavailableError("no server answered")
        if answer.accepted and not self._first:
            self._first.add(request.session)
        return answer

    def close_session(self, session, reason, proof=b""):
        # As over DDS: who asks for it does not wait until the worker has ended.
        arguments = (session, reason, proof)
        threading.Thread(target=super().close_session, args=arguments, daemon=True).start()

    def table_of(self, session):
        """The server of a session's id."""
        return self._owner[session]

    def name_of(self, server):
        """The name of a server that lives, by its id; empty for none."""
        return next((self.names[t] for t in self.tables if t.server == server), "")

    def kill(self, name):
        """A server ends at once, with all its workers; nobody is told, and nobody answers."""
        table = next(table for table in self.tables if self.names[table] == name)
        self._dead.add(table)
        self.tables.remove(table)
        for host in table.hosts:
            os.kill(host.worker.pid, signal.SIGKILL)
        table.close()

    def rise(self, name):
        """A server of this name is there that knows nothing."""
        self.tables.append(self.make_table(name))

    def _say(self):
        while not self._over.wait(HEARD_EVERY_S):
            for table in list(self.tables):
                name = self.names[table]
                state = "draining" if name in self.draining else "running"
                self._servers.heard(table.server, name, state)

    def close(self):
        for program in self.programs:
            program.kill()
            program.communicate()
        self.host.close()
        for table in self.tables:
            table.close()
        self._over.set()
        self._statuses.join()
        self._watch.join()
        self.up.close()
        self.down.close()
