"""One recorder and several servers in the test's process, which all hear what the robot asks."""

import threading

from support.one_process import OneProcess


class SeveralEdges(OneProcess):
    """A recorder and `count` servers, in an order that turns with each question.

    Args:
        count: Of servers.
        arguments, named: As `OneProcess` takes them.

    Attributes:
        tables: The servers.
    """

    def __init__(self, *arguments, count=2, **named):
        self._owner, self._turn = {}, 0
        self._turns = threading.Lock()
        self._count = count
        self.tables = []
        super().__init__(*arguments, **named)
        self.tables = [self.table, *(self.make_table() for _ in range(count - 1))]

    def receive(self, message):
        table = self._owner.get(message.session)
        if table is not None:
            table.receive(message)

    def open_session(self, request, timeout_s, believes=None, patience_s=0.0):
        with self._turns:
            self._turn += 1
            turned = self._turn % len(self.tables)
        stranger = None
        for table in (*self.tables[turned:], *self.tables[:turned]):
            answer = table.open(request)
            if answer is None:
                continue
            if answer.accepted:
                self._owner[request.session] = table
            if believes is None or believes(answer):
                return answer
            stranger = answer
        return stranger

    def close_session(self, session, reason, proof=b""):
        table = self._owner.get(session)
        if table is not None:
            table.close_session(session, reason, proof)

    def close(self):
        super().close()
        for table in self.tables[1:]:
            table.close()
