"""Lanes: byte streams for bulk beside a link, bound to it by a token that works once.

offer       what is offered, and the table of what is open     pure
strangers   who has connected and shown nothing yet            pure
lane        a lane, and what each kind of door brings
tls         TLS 1.3 over any stream, fast, with half-close
tcp, unix, memory    the kinds
opening     the side that connects
doors       the side that is connected to, and the end of lanes when their link ends
"""
