"""How each driver of Python does what harness.py wants, as its own documentation says."""

import asyncio
import concurrent.futures
import json
import re
import threading
import warnings
from decimal import Decimal

import asyncpg
import django
import psycopg
import psycopg_pool
import sqlalchemy
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from harness import connection, run

warnings.simplefilter('ignore')


class Adapter:
    as_text = False
    json = staticmethod(Jsonb)
    values = staticmethod(list)

    @staticmethod
    def thread(work):
        """A piece of work in a thread of its own."""
        return work()


def percent(sql):
    return re.sub(r'\$\d+', '%s', sql)


class Pool:
    """What is common to most: a statement is a transaction of its own."""

    def query(self, sql, values):
        return self.transaction(lambda tx: tx.query(sql, values))


# ---------------------------------------------------------------- psycopg 3

class PsycopgTx:
    def __init__(self, conn):
        self.conn = conn

    def query(self, sql, values):
        cursor = self.conn.execute(percent(sql), values)
        return cursor.fetchall() if cursor.description else []

    def nested(self, work):
        with self.conn.transaction():
            return work(self)


class PsycopgPool(Pool):
    def __init__(self, bank, size, port):
        self.pool = psycopg_pool.ConnectionPool(kwargs={**connection(bank, port=port), 'row_factory': dict_row,
                                                        # a pooler may not find again what is prepared
                                                        **({'prepare_threshold': None} if port else {})},
                                                min_size=1, max_size=size, open=True)

    def transaction(self, work):
        with self.pool.connection() as conn, conn.transaction():
            return work(PsycopgTx(conn))

    def close(self):
        self.pool.close()


class Psycopg(Adapter):
    name = 'psycopg'
    version = psycopg.__version__

    @staticmethod
    def open(bank, size=4, port=None):
        return PsycopgPool(bank, size, port)

    @staticmethod
    def state(error):
        return getattr(error, 'sqlstate', None)

    @staticmethod
    def cancel(pool, sql, values, waits):
        with pool.pool.connection() as conn:
            def other():
                waits()
                conn.cancel_safe()

            canceller = threading.Thread(target=other)
            canceller.start()
            try:
                conn.execute(percent(sql), values)
            finally:
                canceller.join()

    @staticmethod
    def discard_all(pool):
        with pool.pool.connection() as conn:
            conn.autocommit = True
            conn.execute('DISCARD ALL', prepare=False)
            conn.autocommit = False

    @staticmethod
    def prepared(pool, sql, values):
        thresholds = [0, 1, 5, None]
        for threshold in thresholds:
            with psycopg.connect(**connection('bank1'), autocommit=True, prepare_threshold=threshold) as conn:
                for i in range(8):
                    conn.execute(percent(sql), values(i))
        return len(thresholds)

    @staticmethod
    def pipeline(pool, statements):
        with pool.pool.connection() as conn, conn.transaction(), conn.pipeline():
            for sql, values in statements:
                conn.execute(percent(sql), values)

    @staticmethod
    def give_back(pool, work):
        conn = pool.pool.getconn()
        work(PsycopgTx(conn))
        pool.pool.putconn(conn)


# ---------------------------------------------------------------- asyncpg

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


def wait(awaitable):
    async def awaited():
        return await awaitable

    return asyncio.run_coroutine_threadsafe(awaited(), loop).result()


class AsyncpgTx:
    def __init__(self, conn):
        self.conn = conn

    def query(self, sql, values):
        return [dict(row) for row in wait(self.conn.fetch(sql, *Asyncpg.of(sql, values)))]

    def nested(self, work):
        savepoint = self.conn.transaction()
        wait(savepoint.start())
        try:
            result = work(self)
        except BaseException:
            wait(savepoint.rollback())
            raise
        wait(savepoint.commit())
        return result


class AsyncpgPool(Pool):
    def __init__(self, bank, size, port):
        where = connection(bank, port=port)
        where['database'] = where.pop('dbname')

        async def make():
            return await asyncpg.create_pool(**where, min_size=1, max_size=size, **({'statement_cache_size': 0} if port else {}))

        self.pool = wait(make())

    def transaction(self, work):
        conn = wait(self.pool.acquire())
        try:
            return AsyncpgTx(conn).nested(work)
        finally:
            wait(self.pool.release(conn))

    def close(self):
        wait(self.pool.close())


class Asyncpg(Adapter):
    name = 'asyncpg'
    version = asyncpg.__version__
    # it asks the server for the types, and those of dtx_exec are text
    as_text = True

    @staticmethod
    def json(value):
        return json.dumps(value)

    @staticmethod
    def text(value):
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return '\\x' + value.hex()
        if isinstance(value, list):
            return '{' + ','.join('"' + str(v).replace('\\', '\\\\').replace('"', '\\"') + '"' for v in value) + '}'
        return str(value)

    @staticmethod
    def values(row):
        return [Asyncpg.text(value) for value in row]

    @staticmethod
    def of(sql, values):
        if 'dtx_exec' in sql or 'dtx_query' in sql:
            return Asyncpg.values(values)
        return values

    @staticmethod
    def open(bank, size=4, port=None):
        return AsyncpgPool(bank, size, port)

    @staticmethod
    def state(error):
        if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError)):
            return '57014'
        return getattr(error, 'sqlstate', None)

    @staticmethod
    def cancel(pool, sql, values, waits):
        async def called():
            task = asyncio.ensure_future(pool.pool.fetch(sql, *Asyncpg.of(sql, values)))
            await loop.run_in_executor(None, waits)
            task.cancel()
            await task

        wait(called())

    @staticmethod
    def discard_all(pool):
        async def discard():
            async with pool.pool.acquire() as conn:
                await conn.execute('DISCARD ALL')
                # it does not know that its statements are gone
                await conn.reload_schema_state()

        wait(discard())

    @staticmethod
    def prepared(pool, sql, values):
        async def repeat():
            async with pool.pool.acquire() as conn:
                statement = await conn.prepare(sql)
                for i in range(8):
                    await statement.fetch(*Asyncpg.of(sql, values(i)))

        wait(repeat())
        return 1

    @staticmethod
    def give_back(pool, work):
        conn = wait(pool.pool.acquire())
        wait(conn.execute('BEGIN'))
        work(AsyncpgTx(conn))
        wait(pool.pool.release(conn))


# ---------------------------------------------------------------- SQLAlchemy

def named(sql, values):
    return sqlalchemy.text(re.sub(r'\$(\d+)', r':p\1', sql)), {f'p{i}': value for i, value in enumerate(values, 1)}


class AlchemyTx:
    def __init__(self, conn):
        self.conn = conn

    def query(self, sql, values):
        result = self.conn.execute(*named(sql, values))
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    def nested(self, work):
        with self.conn.begin_nested():
            return work(self)


class AlchemyPool(Pool):
    def __init__(self, bank, size, port):
        where = connection(bank, port=port)
        url = sqlalchemy.URL.create('postgresql+psycopg', where['user'], where['password'], where['host'], where['port'], where['dbname'])
        self.engine = sqlalchemy.create_engine(url, pool_size=size, max_overflow=0,
                                               connect_args={'prepare_threshold': None} if port else {})

    def transaction(self, work):
        with self.engine.begin() as conn:
            return work(AlchemyTx(conn))

    def close(self):
        self.engine.dispose()


class Alchemy(Adapter):
    name = 'SQLAlchemy'
    version = sqlalchemy.__version__

    @staticmethod
    def open(bank, size=4, port=None):
        return AlchemyPool(bank, size, port)

    @staticmethod
    def state(error):
        # the driver's error is inside
        return getattr(getattr(error, 'orig', error), 'sqlstate', None)

    @staticmethod
    def discard_all(pool):
        with pool.engine.connect().execution_options(isolation_level='AUTOCOMMIT') as conn:
            conn.exec_driver_sql('DISCARD ALL')

    @staticmethod
    def give_back(pool, work):
        conn = pool.engine.connect()
        conn.begin()
        work(AlchemyTx(conn))
        conn.close()


# ---------------------------------------------------------------- Django

def configure_django():
    from django.conf import settings

    settings.configure(DATABASES={'default': {}}, USE_TZ=True)
    django.setup()


class DjangoTx:
    def __init__(self, alias):
        self.alias = alias

    def query(self, sql, values):
        from django.db import connections

        with connections[self.alias].cursor() as cursor:
            cursor.execute(percent(sql), values or None)
            if not cursor.description:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    def nested(self, work):
        from django.db import transaction

        with transaction.atomic(using=self.alias):
            return work(self)


class DjangoPool(Pool):
    def __init__(self, bank, size, port, **options):
        from django.db import connections

        where = connection(bank, port=port)
        # a connection of its own for each thread that asks: what Django has without a pool
        self.alias = f'{bank}_{port}_{size}' + ''.join(options)
        connections.settings[self.alias] = connections.configure_settings({
            'default': {}, self.alias: {'ENGINE': 'django.db.backends.postgresql', 'HOST': where['host'], 'PORT': where['port'],
                                        'NAME': bank, 'USER': where['user'], 'PASSWORD': where['password'], 'OPTIONS': options}})[self.alias]

    def transaction(self, work):
        return DjangoTx(self.alias).nested(work)

    def close(self):
        from django.db import connections

        connections[self.alias].close()


class Django(Adapter):
    name = 'Django'
    version = django.__version__

    @staticmethod
    def open(bank, size=4, port=None):
        return DjangoPool(bank, size, port)

    @staticmethod
    def state(error):
        return getattr(error.__cause__ or error, 'sqlstate', None)

    @staticmethod
    def thread(work):
        from django.db import connections

        try:
            return work()
        finally:
            connections.close_all()

    @staticmethod
    def discard_all(pool):
        DjangoTx(pool.alias).query('DISCARD ALL', [])

    @staticmethod
    def prepared(pool, sql, values):
        """Parameters that are bound by the server, instead of put in by the client."""
        bound = DjangoPool('bank1', 1, None, server_side_binding=True)
        for i in range(8):
            bound.query(sql, values(i))
        bound.close()
        return 1


if __name__ == '__main__':
    configure_django()
    run([Psycopg, Asyncpg, Alchemy, Django])
