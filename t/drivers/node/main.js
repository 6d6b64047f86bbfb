/* main.js: how each driver of node does what harness.js wants, as its own documentation says. */
'use strict';

require('reflect-metadata');
const pg = require('pg');
const postgres = require('postgres');
const knex = require('knex');
const typeorm = require('typeorm');
const drizzle = require('drizzle-orm');
const { drizzle: drizzleOf } = require('drizzle-orm/node-postgres');
const sequelize = require('sequelize');
const fs = require('node:fs');
const path = require('node:path');
const { run, connection } = require('./harness.js');

// not every package lets its package.json be required
function version(name) {
	for (let dir = path.dirname(require.resolve(name)); ; dir = path.dirname(dir)) {
		const file = path.join(dir, 'package.json');
		const found = fs.existsSync(file) && JSON.parse(fs.readFileSync(file, 'utf8'));
		if (found && found.name === name) return found.version;
	}
}

const options = (bank, { max, port }) => ({ ...connection(bank), max, ...(port ? { port } : {}) });

// ---------------------------------------------------------------- node-postgres

const pgTx = client => ({
	query: async (sql, values) => (await client.query(sql, values)).rows,
	async nested(work) {
		await client.query('SAVEPOINT s');
		try {
			const result = await work(pgTx(client));
			await client.query('RELEASE SAVEPOINT s');
			return result;
		} catch (error) {
			await client.query('ROLLBACK TO SAVEPOINT s');
			throw error;
		}
	},
});

async function pgTransaction(pool, work) {
	const client = await pool.connect();
	try {
		await client.query('BEGIN');
		const result = await work(pgTx(client));
		await client.query('COMMIT');
		return result;
	} catch (error) {
		await client.query('ROLLBACK');
		throw error;
	} finally {
		client.release();
	}
}

const nodePostgres = {
	name: 'node-postgres',
	version: version('pg'),
	async open(bank, choice) {
		const pool = new pg.Pool(options(bank, choice));
		return {
			pool,
			query: async (sql, values) => (await pool.query(sql, values)).rows,
			transaction: work => pgTransaction(pool, work),
			end: () => pool.end(),
		};
	},
	state: error => error.code,
	// from another of the pool's connections: the driver's own cancel() is not documented
	async cancel({ pool }, sql, values, waits) {
		const client = await pool.connect();
		try {
			const { rows: [{ pid }] } = await client.query('SELECT pg_backend_pid() AS pid');
			const running = client.query(sql, values);
			running.catch(() => {});
			await waits();
			await pool.query('SELECT pg_cancel_backend($1)', [pid]);
			await running;
		} finally {
			client.release();
		}
	},
	prepared: ({ pool }, text, values) => pool.query({ name: 'credit', text, values }),
	// release(true) closes it; a plain release would hand the open transaction to the next
	async giveBack({ pool }, work) {
		const client = await pool.connect();
		await client.query('BEGIN');
		await work(pgTx(client));
		client.release(true);
	},
};

// ---------------------------------------------------------------- postgres.js

const postgresTx = sql => ({
	query: (text, values) => sql.unsafe(text, values),
	nested: work => sql.savepoint(inner => work(postgresTx(inner))),
});

const postgresJs = {
	name: 'postgres.js',
	version: version('postgres'),
	async open(bank, choice) {
		const { user, ...rest } = options(bank, choice);
		// statements that a pooler would not find again
		const sql = postgres({ ...rest, username: user, onnotice: () => {}, prepare: !choice.port });
		return {
			sql,
			query: (text, values) => sql.unsafe(text, values),
			transaction: work => sql.begin(inner => work(postgresTx(inner))),
			simple: text => sql.unsafe(text),
			end: () => sql.end(),
		};
	},
	state: error => error.code,
	// after DISCARD ALL its own transactions are lost without an error, without dtx too
	forgets: true,
	// it asks the server for the types, and those of dtx_exec are text
	json: JSON.stringify,
	array: values => '{' + values.map(v => typeof v === 'string' ? JSON.stringify(v) : v).join(',') + '}',
	date: v => v.toISOString(),
	async cancel({ sql }, text, values, waits) {
		const running = sql.unsafe(text, values);
		running.catch(() => {});
		await waits();
		running.cancel();
		await running;
	},
	prepared: ({ sql }, text, values) => sql.unsafe(text, values, { prepare: true }),
	pipeline: ({ sql }, statements) => sql.begin(inner => statements.map(([text, values]) => inner.unsafe(text, values))),
};

// ---------------------------------------------------------------- Knex

const marks = sql => sql.replace(/\$\d+/g, '?');

const knexTx = trx => ({
	query: async (sql, values) => (await trx.raw(marks(sql), values)).rows,
	nested: work => trx.transaction(inner => work(knexTx(inner))),
});

const knexAdapter = {
	name: 'Knex',
	version: version('knex'),
	async open(bank, choice) {
		const { max, ...where } = options(bank, choice);
		const db = knex({ client: 'pg', connection: where, pool: { min: 0, max } });
		return {
			query: async (sql, values) => (await db.raw(marks(sql), values)).rows,
			transaction: work => db.transaction(trx => work(knexTx(trx))),
			end: () => db.destroy(),
		};
	},
	state: error => error.code,
};

// ---------------------------------------------------------------- TypeORM

const typeormTx = manager => ({
	query: (sql, values) => manager.query(sql, values),
	nested: work => manager.transaction(inner => work(typeormTx(inner))),
});

const typeormAdapter = {
	name: 'TypeORM',
	version: version('typeorm'),
	async open(bank, choice) {
		const { user, max, ...where } = options(bank, choice);
		const source = await new typeorm.DataSource({ type: 'postgres', ...where, username: user, poolSize: max }).initialize();
		return {
			source,
			query: (sql, values) => source.query(sql, values),
			transaction: work => source.manager.transaction(manager => work(typeormTx(manager))),
			end: () => source.destroy(),
		};
	},
	state: error => error.code,
};

// ---------------------------------------------------------------- Drizzle

// the statement with its values where $1, $2 ... are
function tagged(sql, values) {
	return drizzle.sql.join(sql.split(/(\$\d+)/).map(part => /^\$\d+$/.test(part) ? drizzle.sql.param(values[part.slice(1) - 1]) : drizzle.sql.raw(part)));
}

const drizzleTx = tx => ({
	query: async (sql, values) => (await tx.execute(tagged(sql, values))).rows,
	nested: work => tx.transaction(inner => work(drizzleTx(inner))),
});

const drizzleAdapter = {
	name: 'Drizzle',
	version: version('drizzle-orm'),
	async open(bank, choice) {
		const pool = new pg.Pool(options(bank, choice));
		const db = drizzleOf(pool);
		return {
			query: async (sql, values) => (await db.execute(tagged(sql, values))).rows,
			transaction: work => db.transaction(tx => work(drizzleTx(tx))),
			end: () => pool.end(),
		};
	},
	// it wraps the driver's error
	state: error => (error.cause || error).code,
};

// ---------------------------------------------------------------- Sequelize

const sequelizeRows = async (db, sql, values, transaction) => {
	const [rows] = await db.query(sql, { bind: values, transaction });
	return Array.isArray(rows) ? rows : [];
};

const sequelizeTx = (db, transaction) => ({
	query: (sql, values) => sequelizeRows(db, sql, values, transaction),
	nested: work => db.transaction({ transaction }, inner => work(sequelizeTx(db, inner))),
});

const sequelizeAdapter = {
	name: 'Sequelize',
	version: version('sequelize'),
	async open(bank, choice) {
		const { host, port, database, user, password, max } = options(bank, choice);
		const db = new sequelize.Sequelize(database, user, password, { host, port, dialect: 'postgres', logging: false, pool: { max } });
		return {
			query: (sql, values) => sequelizeRows(db, sql, values),
			transaction: work => db.transaction(t => work(sequelizeTx(db, t))),
			end: () => db.close(),
		};
	},
	state: error => (error.parent || error).code,
};

run([nodePostgres, postgresJs, knexAdapter, typeormAdapter, drizzleAdapter, sequelizeAdapter]).catch(error => {
	console.error(error);
	process.exitCode = 1;
});
