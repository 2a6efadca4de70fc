"""Asks the DNS server on a port of loopback for the address of layer.test."""
import socket, sys

ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(2)
ask.connect(("127.0.0.1", int(sys.argv[1])))
try:
    ask.send(b"\0\7\1\0\0\1\0\0\0\0\0\0\5layer\4test\0\0\1\0\1")
    print(socket.inet_ntoa(ask.recv(512)[-4:]))
except OSError as e:
    print(e)
