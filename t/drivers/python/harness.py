"""The situations that every driver of Python goes through.

An adapter (main.py) says how a driver does a thing. It has name, version and

    open(bank, size=4, port=None)   a pool, which has
        query(sql, values)          one statement in a transaction of its own: a list of dicts
        transaction(work)           work(tx), with tx.query(sql, values) and tx.nested(work); commits, or rolls
                                    back what raises
        close()
    state(error)                    its SQLSTATE

and, where the driver has such a thing: cancel, prepared, pipeline, give_back. Statements have $1, $2 ...; an
adapter that needs another form makes it.
"""

import json
import os
import random
import re
import time
import threading
import traceback
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
from psycopg.rows import dict_row

PORT = {'bank1': int(os.environ['DTX_PORT1']), 'bank2': int(os.environ['DTX_PORT2'])}
PASSWORD = os.environ['DTX_PASSWORD']
POOLER = os.environ.get('DTX_POOLER')

DEBIT = 'UPDATE account_info SET account_balance = account_balance - $1 WHERE account_no = $2'
CREDIT = 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2'
AT_BANK2 = 'SELECT dtx_exec($1, $2, $3, $4) AS n'


def connection(bank, user='shop', port=None):
    return {'host': '127.0.0.1', 'port': port or PORT[bank], 'dbname': bank, 'user': user, 'password': PASSWORD}


# ---------------------------------------------------------------- what the tests know

wardens = {}


def warden(bank, sql, values=()):
    """A superuser's statement, beside the driver's own."""
    if bank not in wardens:
        wardens[bank] = psycopg.connect(**connection(bank, 'warden'), autocommit=True, row_factory=dict_row)
    cursor = wardens[bank].execute(sql, values)
    return cursor.fetchall() if cursor.description else []


def until(what, condition):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError('waited in vain: ' + what)
        time.sleep(0.01)


number = 0
first_id = os.getpid() * 1000


def account(driver):
    """An account of that number at both banks, with 1000."""
    global number
    number += 1
    no = f'{driver.name} {first_id + number}'
    for bank in PORT:
        warden(bank, "INSERT INTO account_info VALUES (%s, 'somebody', 1000)", [no])
    return no


def settled():
    for bank in PORT:
        until('everything is settled', lambda: warden(bank, """
            SELECT (SELECT count(*) FROM dtx.branch) + (SELECT count(*) FROM dtx.joined_branch WHERE state = 'd') AS n""")[0]['n'] == 0)


def balances(no, *expected):
    settled()
    found = tuple(int(warden(bank, 'SELECT account_balance AS b FROM account_info WHERE account_no = %s', [no])[0]['b']) for bank in PORT)
    assert found == expected, f'balances are {found}, not {expected}'


class Blocker:
    """Somebody who has the row at bank2, without dtx."""

    def __init__(self, no):
        self.no = no

    def __enter__(self):
        self.conn = psycopg.connect(**connection('bank2', 'warden'))
        self.conn.execute('UPDATE account_info SET account_name = account_name WHERE account_no = %s', [self.no])

    def __exit__(self, *_):
        self.conn.close()


def waits_at_peer():
    until('the call waits at the peer', lambda: warden('bank2', """
        SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'""")[0]['n'] > 0)


def fails(driver, state, work, *args):
    try:
        work(*args)
    except BaseException as error:
        assert driver.state(error) == state, f'SQLSTATE {driver.state(error)}, not {state}: {error}'
        return
    raise AssertionError(f'no error, but {state} was expected')


def retried(driver, pool, work, between=lambda: None):
    """What an application does: the transaction once more after an error that says so."""
    attempt = 0
    while True:
        attempt += 1
        try:
            pool.transaction(work)
            return attempt
        except Exception as error:
            if attempt == 10 or driver.state(error) not in ('40001', '40P01', '55P03', 'DX006'):
                raise
            between()
            time.sleep(random.uniform(0, 0.01 * 2 ** attempt))


def pid(pool):
    return pool.query('SELECT pg_backend_pid() AS pid', [])[0]['pid']


def transfer(tx, no, amount):
    tx.query(DEBIT, [amount, no])
    assert tx.query(AT_BANK2, ['bank2', CREDIT, amount, no]) == [{'n': 1}]


class Undone(Exception):
    pass


def raises(kind, work):
    try:
        work()
    except kind:
        return
    raise AssertionError('no error')


def rolled_back(pool, work):
    def undone(tx):
        work(tx)
        raise Undone

    raises(Undone, lambda: pool.transaction(undone))


# ---------------------------------------------------------------- situations

LEFT_OUT = object()  # what a situation returns that the driver has no means for

def bind(driver, pool):
    no = account(driver)
    pool.transaction(lambda tx: transfer(tx, no, 100))
    # outside of a block, and as other types
    pool.query(AT_BANK2, ['bank2', CREDIT, 1, no])
    if not driver.as_text:
        pool.query(AT_BANK2, ['bank2', CREDIT, Decimal('0.5'), no])
        pool.query(AT_BANK2, ['bank2', CREDIT, 0.5, no])
    else:
        pool.query(AT_BANK2, ['bank2', CREDIT, '1', no])
    balances(no, 900, 1102)


def types(driver, pool):
    insert = 'INSERT INTO kinds VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)'
    call = 'SELECT dtx_exec($1, $2, ' + ', '.join(f'${i}' for i in range(3, 17)) + ')'
    no = account(driver)
    row = [first_id + number, "it's 中文 $1 \\ %s", 42, 1152921504606846977, Decimal('12345678901234567890.12'), 1.5, True, date(2026, 2, 28),
           datetime(2026, 2, 28, 12, 30, tzinfo=timezone.utc), uuid.UUID('6f3f0ab1-d2c8-e957-0000-0000000000ff'),
           driver.json({'a': [1, 'x']}), [1, 2, 3], ['a,b', 'c"d'], b'\x00\xff\n']
    pool.query(call, ['bank2', insert, *driver.values(row)])
    pool.query(call, ['bank2', insert, *driver.values([first_id + number + 10**12, *[None] * 13])])
    rows = warden('bank2', """SELECT concat_ws('|', t, i, b, n, f, o, d, z AT TIME ZONE 'UTC', u, j, a, x, y) AS all FROM kinds
                              WHERE id IN (%s, %s) ORDER BY id""", [first_id + number, first_id + number + 10**12])
    assert rows[0]['all'] == "it's 中文 $1 \\ %s|42|1152921504606846977|12345678901234567890.12|1.5|t|2026-02-28|2026-02-28 12:30:00|" \
        '6f3f0ab1-d2c8-e957-0000-0000000000ff|{"a": [1, "x"]}|{1,2,3}|{"a,b","c\\"d"}|\\x00ff0a', rows[0]['all']
    assert rows[1]['all'] == ''


def rows(driver, pool):
    no = account(driver)
    got = pool.query('SELECT * FROM dtx_query($1, $2, $3, $4) AS t(no text, balance numeric, today date)',
                     ['bank2', "SELECT account_no, account_balance, date '2026-02-28' FROM account_info WHERE account_no = $1 AND account_balance > $2",
                      *driver.values([no, 5])])
    assert got == [{'no': no, 'balance': Decimal(1000), 'today': date(2026, 2, 28)}], got


def rollback(driver, pool):
    no = account(driver)
    rolled_back(pool, lambda tx: transfer(tx, no, 100))
    balances(no, 1000, 1000)


def error(driver, pool):
    no = account(driver)
    fails(driver, '23514', pool.transaction, lambda tx: tx.query(AT_BANK2, ['bank2', DEBIT, 5000, no]))
    fails(driver, '42P01', pool.query, AT_BANK2, ['bank2', 'UPDATE no_such_table SET a = $1 WHERE b = $2', 1, '2'])
    pool.transaction(lambda tx: transfer(tx, no, 100))
    balances(no, 900, 1100)


def retry(driver, pool):
    no = account(driver)
    other = psycopg.connect(**connection('bank1'))
    other.execute("SELECT dtx_exec('bank2', %s, 7, %s::text)", [CREDIT, no])

    def work(tx):
        tx.query("SELECT set_config('dtx.lock_timeout', '50ms', true)", [])
        transfer(tx, no, 100)

    def between():
        other.commit()
        settled()

    attempts = retried(driver, pool, work, between)
    other.close()
    assert attempts > 1
    balances(no, 900, 1107)


def again(driver, pool):
    no = account(driver)
    for _ in range(10):
        rolled_back(pool, lambda tx: transfer(tx, no, 100))
        pool.transaction(lambda tx: transfer(tx, no, 1))
    balances(no, 990, 1010)


def savepoint(driver, pool):
    no = account(driver)

    def undone(tx):
        transfer(tx, no, 100)
        raise Undone

    def work(tx):
        transfer(tx, no, 1)
        raises(Undone, lambda: tx.nested(undone))
        fails(driver, '23514', tx.nested, lambda inner: inner.query(AT_BANK2, ['bank2', DEBIT, 5000, no]))
        tx.nested(lambda inner: transfer(inner, no, 10))

    pool.transaction(work)
    balances(no, 989, 1011)


def autosave(driver, pool):
    no = account(driver)
    xid = pool.query('SELECT dtx_open() AS xid', [])[0]['xid']

    def joined(tx):
        tx.query('SELECT dtx_join($1)', [xid])
        tx.query(DEBIT, [100, no])

    pool.transaction(lambda tx: tx.nested(joined))
    pool.query('SELECT dtx_rollback($1)', [xid])
    balances(no, 1000, 1000)


def cancel(driver, pool):
    if not hasattr(driver, 'cancel'):
        return LEFT_OUT
    no = account(driver)
    with Blocker(no):
        fails(driver, '57014', driver.cancel, pool, AT_BANK2, ['bank2', CREDIT, 100, no], waits_at_peer)
    retried(driver, pool, lambda tx: transfer(tx, no, 1))
    balances(no, 999, 1001)


def timeout(driver, pool):
    no = account(driver)

    def work(tx):
        tx.query("SELECT set_config('statement_timeout', '300', true)", [])
        tx.query(AT_BANK2, ['bank2', CREDIT, 100, no])

    with Blocker(no):
        fails(driver, '57014', pool.transaction, work)
    retried(driver, pool, lambda tx: transfer(tx, no, 1))
    balances(no, 999, 1001)


def pool(driver, _):
    if not hasattr(driver, 'give_back'):
        return LEFT_OUT
    one = driver.open('bank1', size=1)
    no = account(driver)
    driver.give_back(one, lambda tx: transfer(tx, no, 100))
    balances(no, 1000, 1000)
    one.transaction(lambda tx: transfer(tx, no, 1))
    balances(no, 999, 1001)
    one.close()


def discard(driver, _):
    one = driver.open('bank1', size=1)
    no = account(driver)
    for _ in range(3):
        one.transaction(lambda tx: transfer(tx, no, 1))
        driver.discard_all(one)
    balances(no, 997, 1003)
    one.close()


def prepared(driver, pool):
    if not hasattr(driver, 'prepared'):
        return LEFT_OUT
    no = account(driver)
    modes = driver.prepared(pool, AT_BANK2, lambda i: driver.values(['bank2', CREDIT, 1 if i % 2 else Decimal(1), no]))
    balances(no, 1000, 1000 + modes * 8)


def pipeline(driver, pool):
    if not hasattr(driver, 'pipeline'):
        return LEFT_OUT
    no = account(driver)
    driver.pipeline(pool, [(DEBIT, [3, no]), *[(AT_BANK2, ['bank2', CREDIT, 1, no])] * 3])
    balances(no, 997, 1003)


def is_raw_array(value):
    if not isinstance(value, str) or not re.fullmatch(r'\{.*\}', value):
        return False
    try:
        # some leave JSON to the application
        return not isinstance(json.loads(value), dict)
    except ValueError:
        return True


def views(driver, pool):
    no = account(driver)
    names = [row['relname'] for row in warden('bank1', "SELECT relname FROM pg_class WHERE relkind = 'v' AND relname ~ '^dtx_' ORDER BY 1")]
    assert len(names) > 10
    other = driver.open('bank2', size=1)

    def work(tx):
        transfer(tx, no, 1)
        for one in tx, other:
            for name in names:
                for row in one.query(f'SELECT * FROM {name}', []):
                    for column, value in row.items():
                        assert not is_raw_array(value), f'{name}.{column} is {value}'

    pool.transaction(work)
    other.close()
    balances(no, 999, 1001)


def unavailable(driver, _):
    one = driver.open('bank1', size=1)
    no = account(driver)
    before = pid(one)

    def broken(tx):
        transfer(tx, no, 100)
        tx.query(AT_BANK2, ['bank2', 'UPDATE account_info SET account_name = pg_terminate_backend(pg_backend_pid())::text || $1::text WHERE account_no = $2', 1, no])

    fails(driver, 'DX006', one.transaction, lambda tx: tx.query(AT_BANK2, ['nowhere', CREDIT, 1, no]))
    fails(driver, 'DX006', one.transaction, broken)
    retried(driver, one, lambda tx: transfer(tx, no, 1))
    assert pid(one) == before, 'the pool has made a new connection'
    balances(no, 999, 1001)
    one.close()


def pooler(driver, _):
    if not POOLER:
        return LEFT_OUT
    pooled = driver.open('bank1', size=4, port=int(POOLER))
    numbers = [account(driver) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            list(threads.map(lambda no: driver.thread(lambda: pooled.transaction(lambda tx: transfer(tx, no, 1))), numbers))
            list(threads.map(lambda no: driver.thread(lambda: rolled_back(pooled, lambda tx: transfer(tx, no, 100))), numbers))
            settled()
    for no in numbers:
        balances(no, 997, 1003)
    pooled.close()


def shared(driver, pool):
    """A service beside bank2 that joins by the header of a request, and its client at bank1."""
    service = driver.open('bank2', size=2)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            no = urllib.parse.unquote(self.path[1:])

            def work(tx):
                joined = tx.query('SELECT dtx_join($1, $2) AS joined', [self.headers['dtx-xid'], 'credit'])[0]['joined']
                if joined:
                    tx.query(CREDIT, [100, no])
                return joined

            try:
                answer, status = str(driver.thread(lambda: service.transaction(work))), 200
            except Exception as failed:
                answer, status = str(failed), 500
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for end in 'dtx_commit', 'dtx_rollback':
            no = account(driver)
            xid = pool.query("SELECT dtx_open(timeout => '1 minute') AS xid", [])[0]['xid']

            def joined(tx):
                tx.query('SELECT dtx_join($1)', [xid])
                tx.query(DEBIT, [100, no])

            pool.transaction(joined)
            # a request that is sent twice is carried out once
            for expected in 'True', 'False':
                request = urllib.request.Request(f'http://127.0.0.1:{server.server_port}/{urllib.parse.quote(no)}', method='POST', headers={'dtx-xid': xid})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert answer.read().decode() == expected
            pool.query(f'SELECT {end}($1)', [xid])
            balances(no, *((900, 1100) if end == 'dtx_commit' else (1000, 1000)))
    finally:
        server.shutdown()
        server.server_close()
        service.close()


def messages(driver, pool):
    name = re.sub('[^a-z0-9]', '_', driver.name.lower())
    pool.query('SELECT dtx_subscribe($1, name => $2)', [f'{name}.*', name])

    def publish(tx, n):
        tx.query('SELECT dtx_publish($1, $2)', [f'{name}.paid', driver.json({'n': n})])

    def receive(tx):
        rows = tx.query("SELECT id, payload FROM dtx_receive($1, max => 10, wait => '10s')", [name])
        for row in rows:
            payload = row['payload']
            got.append((json.loads(payload) if isinstance(payload, str) else payload)['n'])
        if rows:
            tx.query('SELECT dtx_ack($1, $2)', [name, [row['id'] for row in rows]])

    got = []
    pool.transaction(lambda tx: [publish(tx, 1), publish(tx, 2)])
    rolled_back(pool, lambda tx: publish(tx, 3))
    until('the messages come', lambda: pool.transaction(receive) or len(got) >= 2)
    assert got == [1, 2], got
    pool.query('SELECT dtx_unsubscribe($1)', [name])


SITUATIONS = [bind, types, rows, rollback, error, retry, again, savepoint, autosave, cancel, timeout, pool, discard, prepared, pipeline, views,
              unavailable, pooler, shared, messages]


def run(drivers):
    only = os.environ.get('DTX_ONLY', '').split()
    for driver in drivers:
        if any(name in only for name in (d.name for d in drivers)) and driver.name not in only:
            continue
        a_pool = driver.open('bank1')
        for situation in SITUATIONS:
            if any(s.__name__ in only for s in SITUATIONS) and situation.__name__ not in only:
                continue
            line = {'driver': driver.name, 'version': driver.version, 'situation': situation.__name__, 'passed': True}
            begun = time.monotonic()
            try:
                if situation(driver, a_pool) is LEFT_OUT:
                    line['passed'] = None
            except BaseException as failed:
                line['passed'] = False
                line['note'] = traceback.format_exc() if only else f'{type(failed).__name__}: {failed}'
            line['seconds'] = round(time.monotonic() - begun, 3)
            print(json.dumps(line), flush=True)
        a_pool.close()
    for conn in wardens.values():
        conn.close()
