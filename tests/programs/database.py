"""A line server with two databases of sqlite: one in memory, one in a file with a write-ahead log (its
index is mapped shared). Answers `state LAST_OF_MEMORY of LAST_OF_FILE`."""
import os, socket, sqlite3, sys

memory = sqlite3.connect(":memory:")
disk = sqlite3.connect(os.path.join(sys.argv[2], "base"), isolation_level=None)
disk.execute("pragma journal_mode=wal").fetchone()
for base in memory, disk:
    base.execute("create table t (n)")
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    words = client.makefile().readline().split()
    if not words:
        client.close()
        continue
    word, number = words
    last = []
    for base in memory, disk:
        if word == "set":
            base.execute("insert into t values (?)", (int(number),))
        last.append(base.execute("select n from t order by rowid desc limit 1").fetchone())
    client.sendall(("state %s of %s\n" % tuple(row and row[0] for row in last)).encode())
    client.close()
