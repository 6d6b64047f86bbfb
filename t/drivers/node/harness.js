/*
 * harness.js: the situations that every driver of node goes through.
 *
 * An adapter (adapters.js) says how a driver does a thing:
 *
 *	name, version
 *	open(bank, {max, port})		a pool; all below are its
 *		query(sql, values)		one statement in a transaction of its own: an array of rows
 *		transaction(work)		work(tx), tx.query(sql, values), tx.nested(work); commits, or rolls back what throws
 *		end()
 *	state(error)				its SQLSTATE
 *
 * and, where the driver has such a thing: cancel, prepared, pipeline, giveBack, notices.
 * Statements have $1, $2 ...; an adapter that needs another form makes it.
 */
'use strict';

const assert = require('node:assert');
const http = require('node:http');
const { Client } = require('pg');

const port = { bank1: Number(process.env.DTX_PORT1), bank2: Number(process.env.DTX_PORT2) };
const password = process.env.DTX_PASSWORD;
const pooler = process.env.DTX_POOLER;

const debit = 'UPDATE account_info SET account_balance = account_balance - $1 WHERE account_no = $2';
const credit = 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2';
const atBank2 = 'SELECT dtx_exec($1, $2, $3, $4) AS n';

const connection = (bank, user = 'shop') => ({ host: '127.0.0.1', port: port[bank], database: bank, user, password });

// ---------------------------------------------------------------- what the tests know

const wardens = {};

// A superuser's statement, beside the driver's own.
async function warden(bank, sql, values) {
	if (!wardens[bank]) {
		wardens[bank] = new Client(connection(bank, 'warden'));
		await wardens[bank].connect();
	}
	return (await wardens[bank].query(sql, values)).rows;
}

async function until(what, condition) {
	const deadline = Date.now() + 60000;
	while (!await condition()) {
		if (Date.now() > deadline) throw new Error('waited in vain: ' + what);
		await new Promise(done => setTimeout(done, 10));
	}
}

let accounts = 0;

// An account of that number at both banks, with 1000.
async function account(driver) {
	const no = `${driver} ${process.pid}.${++accounts}`;
	for (const bank of ['bank1', 'bank2'])
		await warden(bank, "INSERT INTO account_info VALUES ($1, 'somebody', 1000)", [no]);
	return no;
}

async function settled() {
	for (const bank of ['bank1', 'bank2'])
		await until('everything is settled', async () => (await warden(bank, `
			SELECT (SELECT count(*) FROM dtx.branch) + (SELECT count(*) FROM dtx.joined_branch WHERE state = 'd') AS n`))[0].n === '0');
}

async function balances(no, ...expected) {
	await settled();
	const found = [];
	for (const bank of ['bank1', 'bank2'])
		found.push(Number((await warden(bank, 'SELECT account_balance FROM account_info WHERE account_no = $1', [no]))[0].account_balance));
	assert.deepStrictEqual(found, expected, `balances are ${found}, not ${expected}`);
}

// Somebody who has the row at bank2, without dtx; returns what lets it go.
async function blocker(no) {
	const client = new Client(connection('bank2', 'warden'));
	await client.connect();
	await client.query('BEGIN');
	await client.query('UPDATE account_info SET account_name = account_name WHERE account_no = $1', [no]);
	return async () => { await client.query('ROLLBACK'); await client.end(); };
}

const waitsAtPeer = () => until('the call waits at the peer', async () => (await warden('bank2', `
	SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'dtx' AND wait_event_type = 'Lock'`))[0].n !== '0');

async function fails(driver, state, work) {
	let error;
	try { await work(); } catch (e) { error = e; }
	assert(error, `no error, but ${state} was expected`);
	assert.strictEqual(driver.state(error), state, `SQLSTATE ${driver.state(error)}, not ${state}: ${error.message}`);
}

// What an application does: the transaction once more after an error that says so.
async function retried(driver, pool, work, between = () => {}) {
	for (let attempt = 1; ; attempt++) {
		try {
			await pool.transaction(work);
			return attempt;
		} catch (error) {
			if (attempt === 10 || !['40001', '40P01', '55P03', 'DX006'].includes(driver.state(error))) throw error;
			await between();
			await new Promise(done => setTimeout(done, Math.random() * 10 * 2 ** attempt));
		}
	}
}

const pid = async pool => Number((await pool.query('SELECT pg_backend_pid() AS pid', []))[0].pid);

async function transfer(tx, no, amount) {
	await tx.query(debit, [amount, no]);
	const rows = await tx.query(atBank2, ['bank2', credit, amount, no]);
	assert.strictEqual(Number(rows[0].n), 1);
}

// An array that the driver does not know the type of; some leave JSON to the application.
function rawArray(value) {
	if (typeof value !== 'string' || !/^\{.*\}$/.test(value)) return false;
	try { return typeof JSON.parse(value) !== 'object'; } catch { return true; }
}

class Undone extends Error {}

async function rolledBack(pool, work) {
	await assert.rejects(pool.transaction(async tx => { await work(tx); throw new Undone('undone'); }), Undone);
}

// ---------------------------------------------------------------- situations

const situations = {
	async bind(driver, pool) {
		const no = await account(driver.name);
		await pool.transaction(tx => transfer(tx, no, 100));
		// outside of a block, too
		await pool.query(atBank2, ['bank2', credit, 1, no]);
		await balances(no, 900, 1101);
	},

	async types(driver, pool) {
		const id = process.pid * 1000 + ++accounts;
		const insert = 'INSERT INTO kinds VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)';
		const call = `SELECT dtx_exec($1, $2, ${Array.from({ length: 14 }, (_, i) => '$' + (i + 3)).join(', ')})`;
		await pool.query(call, ['bank2', insert, id, "it's 中文 $1 \\", 42, '1152921504606846977', '12345678901234567890.12', 1.5,
			true, '2026-02-28', driver.date ? driver.date(new Date(Date.UTC(2026, 1, 28, 12, 30))) : new Date(Date.UTC(2026, 1, 28, 12, 30)),
			'6f3f0ab1-d2c8-e957-0000-0000000000ff', driver.json ? driver.json({ a: [1, 'x'] }) : { a: [1, 'x'] },
			driver.array ? driver.array([1, 2, 3]) : [1, 2, 3], driver.array ? driver.array(['a,b', 'c"d']) : ['a,b', 'c"d'],
			'\\x' + Buffer.from([0, 255, 10]).toString('hex')]);
		await pool.query(call, ['bank2', insert, id + 1e12, ...Array(13).fill(null)]);
		const rows = await warden('bank2', `SELECT concat_ws('|', t, i, b, n, f, o, d, z AT TIME ZONE 'UTC', u, j, a, x, y) AS all FROM kinds WHERE id IN ($1, $2) ORDER BY id`, [id, id + 1e12]);
		assert.strictEqual(rows[0].all, "it's 中文 $1 \\|42|1152921504606846977|12345678901234567890.12|1.5|t|2026-02-28|2026-02-28 12:30:00|" +
			'6f3f0ab1-d2c8-e957-0000-0000000000ff|{"a": [1, "x"]}|{1,2,3}|{"a,b","c\\"d"}|\\x00ff0a');
		assert.strictEqual(rows[1].all, '');
	},

	async rows(driver, pool) {
		const no = await account(driver.name);
		const rows = await pool.query('SELECT * FROM dtx_query($1, $2, $3, $4) AS t(no text, balance numeric, today date)',
			['bank2', "SELECT account_no, account_balance, date '2026-02-28' FROM account_info WHERE account_no = $1 AND account_balance > $2", no, 5]);
		assert.strictEqual(rows.length, 1);
		assert.strictEqual(rows[0].no, no);
		assert.strictEqual(Number(rows[0].balance), 1000);
	},

	async rollback(driver, pool) {
		const no = await account(driver.name);
		await rolledBack(pool, tx => transfer(tx, no, 100));
		await balances(no, 1000, 1000);
	},

	async error(driver, pool) {
		const no = await account(driver.name);
		await fails(driver, '23514', () => pool.transaction(tx => tx.query(atBank2, ['bank2', debit, 5000, no])));
		await fails(driver, '42P01', () => pool.query(atBank2, ['bank2', 'UPDATE no_such_table SET a = $1 WHERE b = $2', 1, '2']));
		await pool.transaction(tx => transfer(tx, no, 100));
		await balances(no, 900, 1100);
	},

	async retry(driver, pool) {
		const no = await account(driver.name);
		const other = new Client(connection('bank1'));
		await other.connect();
		await other.query('BEGIN');
		await other.query(atBank2, ['bank2', credit, 7, no]);
		const attempts = await retried(driver, pool, async tx => {
			await tx.query("SELECT set_config('dtx.lock_timeout', '50ms', true)", []);
			await transfer(tx, no, 100);
		}, async () => { await other.query('COMMIT'); await settled(); });
		await other.end();
		assert(attempts > 1);
		await balances(no, 900, 1107);
	},

	async again(driver, pool) {
		const no = await account(driver.name);
		for (let i = 0; i < 10; i++) {
			await rolledBack(pool, tx => transfer(tx, no, 100));
			await pool.transaction(tx => transfer(tx, no, 1));
		}
		await balances(no, 990, 1010);
	},

	async savepoint(driver, pool) {
		const no = await account(driver.name);
		await pool.transaction(async tx => {
			await transfer(tx, no, 1);
			await assert.rejects(tx.nested(async inner => { await transfer(inner, no, 100); throw new Undone('undone'); }), Undone);
			await assert.rejects(tx.nested(inner => inner.query(atBank2, ['bank2', debit, 5000, no])));
			await tx.nested(inner => transfer(inner, no, 10));
		});
		await balances(no, 989, 1011);
	},

	async autosave(driver, pool) {
		const no = await account(driver.name);
		const [{ xid }] = await pool.query('SELECT dtx_open() AS xid', []);
		await pool.transaction(tx => tx.nested(async inner => {
			await inner.query('SELECT dtx_join($1)', [xid]);
			await inner.query(debit, [100, no]);
		}));
		await pool.query('SELECT dtx_rollback($1)', [xid]);
		await balances(no, 1000, 1000);
	},

	async cancel(driver, pool) {
		if (!driver.cancel) return null;
		const no = await account(driver.name);
		const release = await blocker(no);
		try {
			await fails(driver, '57014', () => driver.cancel(pool, atBank2, ['bank2', credit, 100, no], waitsAtPeer));
		} finally {
			await release();
		}
		await retried(driver, pool, tx => transfer(tx, no, 1));
		await balances(no, 999, 1001);
	},

	async timeout(driver, pool) {
		const no = await account(driver.name);
		const release = await blocker(no);
		try {
			await fails(driver, '57014', () => pool.transaction(async tx => {
				await tx.query("SELECT set_config('statement_timeout', '300', true)", []);
				await tx.query(atBank2, ['bank2', credit, 100, no]);
			}));
		} finally {
			await release();
		}
		await retried(driver, pool, tx => transfer(tx, no, 1));
		await balances(no, 999, 1001);
	},

	async pool(driver) {
		if (!driver.giveBack) return null;
		const pool = await driver.open('bank1', { max: 1 });
		try {
			const no = await account(driver.name);
			await driver.giveBack(pool, tx => transfer(tx, no, 100));
			await balances(no, 1000, 1000);
			await pool.transaction(tx => transfer(tx, no, 1));
			await balances(no, 999, 1001);
		} finally {
			await pool.end();
		}
	},

	async discard(driver) {
		if (driver.forgets) return null;
		const pool = await driver.open('bank1', { max: 1 });
		try {
			const no = await account(driver.name);
			for (let i = 0; i < 3; i++) {
				await pool.transaction(tx => transfer(tx, no, 1));
				await (pool.simple ? pool.simple('DISCARD ALL') : pool.query('DISCARD ALL', []));
			}
			await balances(no, 997, 1003);
		} finally {
			await pool.end();
		}
	},

	async prepared(driver, pool) {
		if (!driver.prepared) return null;
		const no = await account(driver.name);
		for (let i = 0; i < 8; i++)
			await driver.prepared(pool, atBank2, ['bank2', credit, i % 2 ? 1 : '1', no]);
		await balances(no, 1000, 1008);
	},

	async pipeline(driver, pool) {
		if (!driver.pipeline) return null;
		const no = await account(driver.name);
		await driver.pipeline(pool, [[debit, [3, no]], ...Array(3).fill([atBank2, ['bank2', credit, 1, no]])]);
		await balances(no, 997, 1003);
	},

	async views(driver, pool) {
		const no = await account(driver.name);
		const views = await warden('bank1', "SELECT relname FROM pg_class WHERE relkind = 'v' AND relname ~ '^dtx_' ORDER BY 1");
		assert(views.length > 10);
		await pool.transaction(async tx => {
			await transfer(tx, no, 1);
			for (const bank of ['bank1', 'bank2']) {
				const other = bank === 'bank1' ? pool : await driver.open('bank2', { max: 1 });
				try {
					for (const { relname } of views) {
						for (const row of await other.query(`SELECT * FROM ${relname}`, []))
							for (const [column, value] of Object.entries(row))
								assert(!rawArray(value), `${relname}.${column} is ${value}`);
					}
				} finally {
					if (other !== pool) await other.end();
				}
			}
		});
		await balances(no, 999, 1001);
	},

	async unavailable(driver) {
		const pool = await driver.open('bank1', { max: 1 });
		try {
			const no = await account(driver.name);
			const before = await pid(pool);
			await fails(driver, 'DX006', () => pool.transaction(tx => tx.query(atBank2, ['nowhere', credit, 1, no])));
			await fails(driver, 'DX006', () => pool.transaction(async tx => {
				await transfer(tx, no, 100);
				await tx.query(atBank2, ['bank2', "UPDATE account_info SET account_name = pg_terminate_backend(pg_backend_pid())::text || $1::text WHERE account_no = $2", 1, no]);
			}));
			await retried(driver, pool, tx => transfer(tx, no, 1));
			assert.strictEqual(await pid(pool), before, 'the pool has made a new connection');
			await balances(no, 999, 1001);
		} finally {
			await pool.end();
		}
	},

	async pooler(driver) {
		if (!pooler) return null;
		const pool = await driver.open('bank1', { max: 4, port: Number(pooler) });
		try {
			const no = [];
			for (let i = 0; i < 4; i++) no.push(await account(driver.name));
			for (let round = 0; round < 3; round++) {
				await Promise.all(no.map(n => pool.transaction(tx => transfer(tx, n, 1))));
				await Promise.all(no.map(n => rolledBack(pool, tx => transfer(tx, n, 100))));
				await settled();
			}
			for (const n of no) await balances(n, 997, 1003);
		} finally {
			await pool.end();
		}
	},

	// A service beside bank2 that joins by the header of a request, and its client at bank1.
	async shared(driver, pool) {
		const service = await driver.open('bank2', { max: 2 });
		const server = http.createServer(async (request, response) => {
			try {
				const no = decodeURIComponent(request.url.slice(1));
				const did = await service.transaction(async tx => {
					const [{ joined }] = await tx.query('SELECT dtx_join($1, $2) AS joined', [request.headers['dtx-xid'], 'credit']);
					if (joined) await tx.query(credit, [100, no]);
					return joined;
				});
				response.end(String(did));
			} catch (error) {
				response.statusCode = 500;
				response.end(String(error.message));
			}
		});
		await new Promise(done => server.listen(0, '127.0.0.1', done));
		try {
			for (const end of ['dtx_commit', 'dtx_rollback']) {
				const no = await account(driver.name);
				const [{ xid }] = await pool.query("SELECT dtx_open(timeout => '1 minute') AS xid", []);
				await pool.transaction(async tx => {
					await tx.query('SELECT dtx_join($1)', [xid]);
					await tx.query(debit, [100, no]);
				});
				// a request that is sent twice is carried out once
				for (const expected of ['true', 'false']) {
					const answer = await fetch(`http://127.0.0.1:${server.address().port}/${encodeURIComponent(no)}`, { headers: { 'dtx-xid': xid } });
					assert.strictEqual(await answer.text(), expected);
				}
				await pool.query(`SELECT ${end}($1)`, [xid]);
				await (end === 'dtx_commit' ? balances(no, 900, 1100) : balances(no, 1000, 1000));
			}
		} finally {
			server.closeAllConnections();
			await new Promise(done => server.close(done));
			await service.end();
		}
	},

	async messages(driver, pool) {
		const name = driver.name.toLowerCase().replace(/[^a-z0-9]/g, '_');
		await pool.query('SELECT dtx_subscribe($1, name => $2)', [`${name}.*`, name]);
		const publish = (tx, n) => tx.query('SELECT dtx_publish($1, $2) AS id', [`${name}.paid`, JSON.stringify({ n })]);
		await pool.transaction(async tx => { await publish(tx, 1); await publish(tx, 2); });
		await rolledBack(pool, tx => publish(tx, 3));
		const got = [];
		await until('the messages come', async () => {
			await pool.transaction(async tx => {
				const rows = await tx.query("SELECT id, payload FROM dtx_receive($1, max => 10, wait => '10s')", [name]);
				if (rows.length === 0) return;
				got.push(...rows.map(row => (typeof row.payload === 'string' ? JSON.parse(row.payload) : row.payload).n));
				await tx.query('SELECT dtx_ack($1, $2)', [name, rows.map(row => row.id)]);
			});
			return got.length >= 2;
		});
		assert.deepStrictEqual(got, [1, 2]);
		await pool.query('SELECT dtx_unsubscribe($1)', [name]);
	},
};

async function run(drivers) {
	const only = (process.env.DTX_ONLY || '').split(' ').filter(Boolean);
	for (const driver of drivers) {
		if (only.length && !only.includes(driver.name) && !Object.keys(situations).some(s => only.includes(s))) continue;
		const pool = await driver.open('bank1', { max: 4 });
		for (const [situation, work] of Object.entries(situations)) {
			if (only.some(o => o in situations) && !only.includes(situation)) continue;
			const line = { driver: driver.name, version: driver.version, situation, passed: true };
			const begun = Date.now();
			let timer;
			try {
				const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error('it hangs')), 120000); });
				if (await Promise.race([work(driver, pool), late]) === null) line.passed = null;
			} catch (error) {
				line.passed = false;
				line.note = process.env.DTX_ONLY ? error.stack : error.message;
			}
			clearTimeout(timer);
			line.seconds = (Date.now() - begun) / 1000;
			console.log(JSON.stringify(line));
		}
		await pool.end();
	}
	for (const client of Object.values(wardens)) await client.end();
}

module.exports = { run, connection };
