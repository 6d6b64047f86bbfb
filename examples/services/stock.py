"""stock.py: the stock service. POST /take {"order_no": ..., "item": ..., "quantity": ...}, with an xid in the header dtx-xid.

What it takes is a part of the caller's transaction, and put back if that is rolled back. A request that comes twice is
carried out once: dtx_join says whether the step was done before.

Environment: PGHOST, PGPORT, PGPASSWORD of its database; PORT, where it listens; LOSE, how many answers it shall lose, to
show what becomes of that.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

lose = int(os.environ.get('LOSE', 0))


def take(xid, order):
    with psycopg.connect(user='stock_service', dbname='stock') as conn:
        if not conn.execute('SELECT dtx_join(%s, %s)', [xid, order['order_no']]).fetchone()[0]:
            return 'taken before'
        cursor = conn.execute('UPDATE stock SET available = available - %s WHERE item = %s', [order['quantity'], order['item']])
        if cursor.rowcount == 0:
            raise LookupError('there is no such item')
        return 'taken'


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global lose
        order = json.loads(self.rfile.read(int(self.headers['content-length'])))
        try:
            status, message = 200, take(self.headers['dtx-xid'], order)
        except psycopg.errors.CheckViolation:
            status, message = 409, 'not enough in stock'
        except LookupError as error:
            status, message = 409, str(error)
        except psycopg.Error as error:
            status, message = 503, str(error)
        print(f"{order['order_no']}: {message}", flush=True)
        if lose > 0 and status == 200:
            lose -= 1
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.end_headers()
        self.wfile.write(json.dumps({'message': message}).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler)
print('ready', flush=True)
server.serve_forever()
