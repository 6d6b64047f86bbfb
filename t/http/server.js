// server.js: an HTTP server for tests, which does what its paths say.
//
//	node server.js DIRECTORY
//
// In DIRECTORY: key.pem and cert.pem, of an authority that clients may be told of, and
// other-key.pem and other-cert.pem, of one that nobody trusts. It writes there
//
//	ports.json		where it listens: http, https (HTTP/2 too), other (https with the other
//					certificate), and none, where nobody does
//	requests		a line of JSON for each request, when its body is there
//	connections		a line for each connection
//	ended			a line for each answer that the client did not wait for
//
//	/status/N			that status, with a body; ?after=X: with Retry-After: X
//	/fails/N			500 to the first N requests of each webhook-id, then 204
//	/lost/N				applied, but the connection is cut before the answer, N times an id
//	/turns/X/N			204 to the first N requests, no answer to those that follow
//	/hang				no answer, ever
//	/drip				an answer of a byte now and then
//	/cut				the connection is cut in the middle of the body
//	/redirect			to /status/204
//	/huge				200, and 10 GB
//	/headers			headers without end
//	/garbage			no HTTP
//	/echo				500, and what was sent, in the body
//	/stale				204 to the first request of a connection, which is cut at the second
//	/goaway/N			GOAWAY at the Nth request of a connection: those after it are not looked at
//	/closed/N			the connection is cut at the Nth request, once, with all that are under way
//	/refused/N			REFUSED_STREAM to the first N requests of each webhook-id, then 204
//	/early/STATUS		that status before the body has come, and RST_STREAM with NO_ERROR
//	/reset				200, and RST_STREAM with INTERNAL_ERROR
'use strict';
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');
const net = require('net');
const path = require('path');

const dir = process.argv[2];
const file = (name) => path.join(dir, name);
const read = (name) => fs.readFileSync(file(name));
const append = (name, what) => fs.appendFileSync(file(name), JSON.stringify(what) + '\n');
const counts = {};
let connections = 0;

// How often that happened before, for a path and an id.
function count(url, id) {
	const key = url + ' ' + id;
	counts[key] = (counts[key] || 0) + 1;
	return counts[key];
}

function socketOf(request) {
	return request.stream ? request.stream.session.socket : request.socket;
}

const behaviours = {
	status(request, response, rest, query) {
		const status = Number(rest);
		const headers = status === 204 || status === 304 ? {} : { 'content-type': 'text/plain' };
		if (query.get('after'))
			headers['retry-after'] = query.get('after');
		response.writeHead(status, headers);
		response.end(status === 204 || status === 304 ? '' : 'this is what ' + status + ' says');
	},
	fails(request, response, rest) {
		const failed = count(request.url, request.headers['webhook-id']) <= Number(rest);
		response.writeHead(failed ? 500 : 204);
		response.end(failed ? 'not yet' : '');
	},
	lost(request, response, rest) {
		if (count(request.url, request.headers['webhook-id']) <= Number(rest))
			socketOf(request).destroy();
		else {
			response.writeHead(204);
			response.end();
		}
	},
	turns(request, response, rest) {
		if (count(request.url, '') > Number(request.url.split('/')[3]))
			return;
		response.writeHead(204);
		response.end();
	},
	hang() {
	},
	drip(request, response) {
		response.writeHead(200);
		const timer = setInterval(() => response.write('.'), 20);
		response.on('close', () => clearInterval(timer));
	},
	cut(request, response) {
		response.writeHead(200, { 'content-length': 1000 });
		response.write('half of it', () => socketOf(request).destroy());
	},
	redirect(request, response) {
		response.writeHead(302, { location: '/status/204' });
		response.end();
	},
	huge(request, response) {
		const piece = Buffer.alloc(65536, 'x');
		let sent = 0;
		response.writeHead(200, { 'content-length': 10 * 1024 * 1024 * 1024 });
		const more = () => {
			while (!response.destroyed) {
				sent += piece.length;
				if (!response.write(piece))
					return;
			}
		};
		response.on('drain', more);
		response.on('close', () => append('ended', { url: request.url, sent }));
		more();
	},
	headers(request, response) {
		const socket = socketOf(request);
		let n = 0;
		socket.write('HTTP/1.1 200 OK\r\n');
		const more = () => {
			while (!socket.destroyed && socket.write('X-Header-' + n++ + ': ' + 'x'.repeat(1000) + '\r\n'));
		};
		socket.on('drain', more);
		socket.on('close', () => append('ended', { url: request.url, sent: n * 1000 }));
		more();
	},
	garbage(request) {
		socketOf(request).end('\u0000\u0001 this is no answer\r\n\r\n');
	},
	echo(request, response) {
		response.writeHead(500);
		response.end(JSON.stringify(request.headers));
	},
	stale(request, response) {
		const socket = socketOf(request);
		socket.served = (socket.served || 0) + 1;
		if (socket.served > 1) {
			socket.destroy();
			return;
		}
		response.writeHead(204);
		response.end();
	},
	goaway(request, response, rest) {
		const session = request.stream.session;
		session.served = (session.served || 0) + 1;
		if (session.last && request.stream.id > session.last)
			return;
		response.writeHead(204);
		response.end();
		if (session.served === Number(rest)) {
			session.last = request.stream.id;
			session.goaway(0, session.last);
			session.close();
		}
	},
	closed(request, response, rest) {
		if (count(request.url, '') === Number(rest)) {
			request.stream.session.destroy();
			return;
		}
		response.writeHead(204);
		response.end();
	},
	refused(request, response, rest) {
		if (count(request.url, request.headers['webhook-id']) <= Number(rest)) {
			request.stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
			return;
		}
		response.writeHead(204);
		response.end();
	},
	reset(request) {
		request.stream.respond({ ':status': 200 });
		request.stream.write('half', () => request.stream.destroy(new Error('reset')));
	},
};

// Answered before the body is there, which is not read.
function early(request, status) {
	append('requests', { url: request.url, method: request.method, version: request.httpVersion, headers: request.headers, body: '' });
	request.stream.respond({ ':status': status });
	request.stream.end('early', () => request.stream.close(http2.constants.NGHTTP2_NO_ERROR));
	request.stream.on('error', () => undefined);
}

function answer(request, response) {
	const pieces = [];
	if (request.url.startsWith('/early/')) {
		early(request, Number(request.url.split('/')[2]));
		return;
	}
	request.on('data', (piece) => pieces.push(piece));
	request.on('end', () => {
		// its connection was cut meanwhile
		if (request.stream && (request.stream.destroyed || !request.stream.session || request.stream.session.destroyed))
			return;
		const url = new URL(request.url, 'http://localhost');
		const [, what, rest] = url.pathname.split('/');
		append('requests', {
			url: request.url, method: request.method, version: request.httpVersion, headers: request.headers,
			body: Buffer.concat(pieces).toString('utf8'), connection: socketOf(request).number,
		});
		(behaviours[what] || behaviours.hang)(request, response, rest, url.searchParams);
	});
	response.on('error', () => undefined);
}

function watched(server) {
	server.on(server instanceof http.Server ? 'connection' : 'secureConnection', (socket) => {
		socket.number = ++connections;
		append('connections', { number: socket.number });
		socket.on('error', () => undefined);
	});
	server.on('sessionError', () => undefined);
	server.on('tlsClientError', () => undefined);
	server.keepAliveTimeout = 600000;
	server.headersTimeout = 600000;
	server.requestTimeout = 0;
	return server;
}

const servers = {
	http: watched(http.createServer(answer)),
	https: watched(http2.createSecureServer({ key: read('key.pem'), cert: read('cert.pem'), allowHTTP1: true }, answer)),
	other: watched(https.createServer({ key: read('other-key.pem'), cert: read('other-cert.pem') }, answer)),
	none: net.createServer(),
};
const ports = {};
for (const name of ['requests', 'connections', 'ended'])
	fs.writeFileSync(file(name), '');
for (const [name, server] of Object.entries(servers))
	server.listen(0, '127.0.0.1', () => {
		ports[name] = server.address().port;
		if (Object.keys(ports).length < Object.keys(servers).length)
			return;
		servers.none.close(() => {
			fs.writeFileSync(file('ports.new'), JSON.stringify(ports));
			fs.renameSync(file('ports.new'), file('ports.json'));
		});
	});
