"""Reading a FlatBuffers file by the rules of the encoding alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table at a byte of a file."""

    content: bytes
    at: int

    def number(self, at, size=4, signed=False):
        return int.from_bytes(self.content[at : at + size], "little", signed=signed)

    def slot(self, slot):
        """Where a field is, None where it has its default."""
        vtable = self.at - self.number(self.at, signed=True)
        if 4 + 2 * slot >= self.number(vtable, 2):
            return None
        offset = self.number(vtable + 4 + 2 * slot, 2)
        return self.at + offset if offset else None

    def integer(self, slot, size=4, default=0):
        at = self.slot(slot)
        return default if at is None else self.number(at, size, signed=True)

    def follow(self, slot):
        at = self.slot(slot)
        return None if at is None else at + self.number(at)

    def table(self, slot):
        return Table(self.content, self.follow(slot))

    def tables(self, slot):
        vector = self.follow(slot)
        places = range(vector + 4, vector + 4 + 4 * self.number(vector), 4)
        return [Table(self.content, at + self.number(at)) for at in places]

    def integers(self, slot):
        vector = self.follow(slot)
        return [self.number(vector + 4 + 4 * i, signed=True) for i in range(self.number(vector))]

    def bytes(self, slot):
        """A vector of bytes or a string, and where it begins."""
        vector = self.follow(slot)
        if vector is None:
            return b"", None
        return self.content[vector + 4 : vector + 4 + self.number(vector)], vector + 4


def root(content):
    """A file's outermost table."""
    return Table(content, int.from_bytes(content[:4], "little"))


def custom_operators(content):
    """The names of a TensorFlow Lite file's operators, as often as they occur; empty for those of the schema."""
    model = root(content)
    names = [code.bytes(1)[0].decode() for code in model.tables(1)]
    (graph,) = model.tables(2)
    return [names[operator.integer(0)] for operator in graph.tables(3)]
