/*
 * orders.js: the order service. POST /orders {"order_no": ..., "item": ..., "quantity": ...}
 *
 * An order is here and its goods are taken from the stock there, or neither. The transaction spans both services:
 * it is opened here, its xid goes along in a header, each service does its part in a transaction of its own, and
 * what was decided here is carried out at both.
 *
 * Environment: PGHOST, PGPORT, PGPASSWORD of its database; PORT, where it listens; STOCK_URL, the other service.
 */
'use strict';

const http = require('node:http');
const { Pool } = require('pg');

const pool = new Pool({ user: 'order_service', database: 'orders' });
// a connection that is lost while nobody uses it is no reason to end
pool.on('error', () => {});

const againStates = ['40001', '40P01', '55P03', 'DX006'];

async function transaction(work) {
	const client = await pool.connect();
	let lost;
	try {
		await client.query('BEGIN');
		await work(client);
		await client.query('COMMIT');
	} catch (error) {
		await client.query('ROLLBACK').catch(failed => { lost = failed; });
		throw error;
	} finally {
		client.release(lost);
	}
}

// Try again what did nothing, or what may be done twice.
async function again(work) {
	for (let attempt = 1; ; attempt++) {
		try {
			return await work();
		} catch (error) {
			if (attempt === 5 || !(error.temporary || againStates.includes(error.code))) throw error;
			await new Promise(done => setTimeout(done, Math.random() * 50 * 2 ** attempt));
		}
	}
}

class Refused extends Error {}

// The other service knows by the xid and the order's number whether it has done this before.
async function takeFromStock(xid, order) {
	let answer;
	try {
		answer = await fetch(process.env.STOCK_URL + '/take', {
			method: 'POST',
			headers: { 'content-type': 'application/json', 'dtx-xid': xid },
			body: JSON.stringify(order),
			signal: AbortSignal.timeout(5000),
		});
	} catch (error) {
		throw Object.assign(new Error('the stock service does not answer'), { temporary: true });
	}
	const { message } = await answer.json();
	if (answer.status === 409) throw new Refused(message);
	if (answer.status !== 200) throw Object.assign(new Error(message), { temporary: answer.status === 503 });
}

async function takeOrder(order) {
	const { rows: [{ xid }] } = await pool.query("SELECT dtx_open(timeout => '30s', joiners => '{stock_service}') AS xid");
	try {
		await transaction(async client => {
			await client.query('SELECT dtx_join($1)', [xid]);
			await client.query('INSERT INTO purchase_order VALUES ($1, $2, $3)', [order.order_no, order.item, order.quantity]);
		});
		await again(() => takeFromStock(xid, order));
		// rolled back, if a part was lost
		const { rows: [{ outcome }] } = await again(() => pool.query('SELECT dtx_commit($1) AS outcome', [xid]));
		if (outcome !== 'committed') throw new Error(outcome);
	} catch (error) {
		// if this fails, too, the timeout does it
		await pool.query('SELECT dtx_rollback($1)', [xid]).catch(() => {});
		throw error;
	}
}

http.createServer(async (request, response) => {
	const reply = (status, message) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ message }));
	try {
		if (request.method !== 'POST' || request.url !== '/orders') return reply(404, 'POST /orders');
		let body = '';
		for await (const part of request) body += part;
		await takeOrder(JSON.parse(body));
		reply(201, 'ordered');
	} catch (error) {
		if (error instanceof Refused) reply(409, error.message);
		else if (error instanceof SyntaxError) reply(400, error.message);
		// the order's number is there: by whoever sends it again, this is an answer
		else if (error.code === '23505') reply(200, 'ordered before');
		else reply(503, error.message);
	}
}).listen(process.env.PORT, '127.0.0.1', () => console.log('ready'));
