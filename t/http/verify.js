// verify.js: verifies requests with the reference implementation of Standard Webhooks.
//
//	node verify.js SECRET < REQUESTS
//
// REQUESTS as server.js writes them. Prints for each "ok", or why it is not authentic.
'use strict';
const { Webhook } = require('standardwebhooks');

const webhook = new Webhook(process.argv[2]);
for (const line of require('fs').readFileSync(0, 'utf8').split('\n')) {
	if (line === '')
		continue;
	const request = JSON.parse(line);
	try {
		webhook.verify(request.body, request.headers);
		console.log('ok');
	} catch (error) {
		console.log(error.message);
	}
}
