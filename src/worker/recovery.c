/*
 * recovery.c
 *		Finding the branches in doubt that nobody here remembers.
 *
 * A session may die, or the whole server, after a branch's phase 1 and before
 * the local commit. Then only the peer knows the branch. So every peer is
 * asked, at the start and on a timer, in this order:
 *
 *	1. P: the peer's branches in doubt that name this node.
 *	2. For each: is its N still running here? Then it is left alone.
 *	3. With a fresh snapshot: is there a row in dtx.branch for the gid, or what
 *	   does dtx.history say? That is the decision. Neither: roll back.
 *
 * The order is what makes it safe. A branch in P has finished phase 1 before P
 * was read. If its transaction was over when step 2 looked, then all that it
 * ever committed is visible to the snapshot of step 3, which is younger. Were
 * the rows read before the state, a transaction could commit in between, and a
 * committed branch be rolled back; were P read after the rows, a branch could
 * appear in P whose row came after the snapshot.
 *
 * An N at or beyond the next one to be handed out was lost in a crash before
 * it reached the disk: its transaction is not running, and never committed. It
 * may be handed out again, to a transaction whose R differs; rows are compared
 * by the whole gid.
 *
 * Among P are branches that an operator has decided at the peer, until this
 * node's decision has been heard there: it is told like any other, and the peer
 * answers whether that is what the operator said.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "core/compat.h"
#include "core/branch_row.h"
#include "core/contact.h"
#include "core/history.h"
#include "core/node.h"
#include "core/relations.h"
#include "core/join.h"
#include "core/status.h"
#include "guc.h"
#include "net/peer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

#define MAX_PENDING	10000		/* branches that are looked at in an answer */

typedef enum Verdict
{
	VERDICT_COMMIT,
	VERDICT_ROLL_BACK,
	VERDICT_RUNNING,
	VERDICT_UNDECIDED
} Verdict;

/*
 * n: this node's transaction that began the branch, under the id node; the gid's
 * own unless it is a branch of a branch. *has_row: dtx.branch has a row of it.
 */
static Verdict
judge(const Gid *gid, const char *gid_text, const char *node, uint64 n, bool *has_row)
{
	char		decision;

	if (transaction_state(n) == XACT_RUNNING)
		return VERDICT_RUNNING;
	/* every read below takes a snapshot of its own, younger than that look */
	decision = branch_decision(gid_text, n);
	*has_row = decision != 0;
	/* what was begun under one id may have ended under a later one */
	if (decision == 0)
		decision = history_decision(gid->depth > 1 ? NULL : node, n, gid->xid.r, gid->b);
	switch (decision)
	{
		case 0:
			return n < node_memory_from(node) ? VERDICT_UNDECIDED : VERDICT_ROLL_BACK;
		case 'c':
		case 'H':
			return VERDICT_COMMIT;
		case 'd':
			/* as the superior branch is told, or the shared transaction decides */
			return VERDICT_RUNNING;
		default:
			return VERDICT_ROLL_BACK;
	}
}

void
recovery_decide(Channel *channel, PGresult *pending)
{
	int			undecided = 0;
	int			rows = PQntuples(pending);
	/* a peer may say anything: others are not to wait until all of it is looked at */
	int			most = Min(rows, MAX_PENDING);
	int			first = rows > most ? pg_prng_uint64_range(&pg_global_prng_state, 0, rows - 1) : 0;

	for (int n = 0; n < most; n++)
	{
		int			i = (first + n) % rows;
		const char *gid_text = PQgetvalue(pending, i, 0);
		Outcome		outcome = {0};
		Verdict		verdict;
		const char *node;
		ItemKey		key;
		Gid			gid;

		if (strlen(gid_text) >= DTX_GID_SIZE || !gid_parse(gid_text, &gid))
			continue;
		outcome.n = gid.depth > 1 ? strtoull(PQgetvalue(pending, i, 1), NULL, 10) : gid.xid.n;
		key = (ItemKey) {outcome.n, gid.xid.r, gid.b};
		if (outcome.n == 0 || hash_search(worker.items, &key, HASH_FIND, NULL) != NULL)
			continue;
		worker_begin();
		node = gid.depth > 1 ? PQgetvalue(pending, i, 2) : gid.xid.node;
		verdict = node_is_self(node) ?
			judge(&gid, gid_text, node, outcome.n, &outcome.has_row) : VERDICT_UNDECIDED;
		worker_commit(false);
		/* what an operator has decided there waits for nobody */
		if (verdict == VERDICT_UNDECIDED && PQgetvalue(pending, i, 3)[0] != 't')
			undecided++;
		if (verdict == VERDICT_UNDECIDED || verdict == VERDICT_RUNNING)
			continue;
		outcome.r = gid.xid.r;
		outcome.b = gid.b;
		outcome.commit = verdict == VERDICT_COMMIT;
		outcome.decided_at = GetXLogInsertRecPtr();	/* or before; a standby may lag */
		outcome.mode = '?';
		outcome.server = channel->server;
		outcome.role = channel->role;
		if (!outcome.commit && gid.depth == 1 && !outcome.has_row)
			open_rollback_add(worker.slot, &outcome);
		item_add(&outcome, gid_text);
	}
	if (undecided > 0)
		ereport(WARNING,
				(errmsg("a peer has %d branches in doubt whose decision is not remembered here", undecided),
				 errdetail("They are older than what dtx.history reaches back to."),
				 errhint("See dtx_branches at the peer, and resolve them there.")));
}

bool
contact_is_alive(Oid server, Oid role)
{
	return GetForeignServerExtended(server, FSV_MISSING_OK) != NULL &&
		SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)) &&
		peer_mapping_exists(server, role);
}

void
contact_forget(Channel *channel)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_all(&scan, OWN_CONTACT, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		if (DatumGetObjectId(own_column(&scan, tuple, Anum_contact_server, NULL)) == channel->server &&
			DatumGetObjectId(own_column(&scan, tuple, Anum_contact_role, NULL)) == channel->role)
			own_delete(&scan, tuple);
	own_scan_end(&scan);
}

void
recovery_load_contacts(void)
{
	OwnScan		scan;
	HeapTuple	tuple;

	worker_begin();
	own_scan_all(&scan, OWN_CONTACT, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Oid			server = DatumGetObjectId(own_column(&scan, tuple, Anum_contact_server, NULL));
		Oid			role = DatumGetObjectId(own_column(&scan, tuple, Anum_contact_role, NULL));
		Channel    *channel;
		Datum		node;
		bool		isnull;

		/* servers, roles and mappings are dropped only when nothing is pending there */
		if (!contact_is_alive(server, role))
		{
			own_delete(&scan, tuple);
			continue;
		}
		channel = channel_get(server, role);
		node = own_column(&scan, tuple, Anum_contact_node, &isnull);
		if (!isnull)
			strlcpy(channel->node, TextDatumGetCString(node), sizeof(channel->node));
		channel->failure_recorded = DatumGetInt32(own_column(&scan, tuple, Anum_contact_attempts, NULL)) > 0;
	}
	own_scan_end(&scan);
	worker_commit(false);
	worker.slot->has_contacts = !dlist_is_empty(&worker.channels);
}

static void
insert_contact(Oid server, Oid role)
{
	Datum		values[Natts_contact] = {0};
	bool		nulls[Natts_contact] = {0};

	values[Anum_contact_server - 1] = ObjectIdGetDatum(server);
	values[Anum_contact_role - 1] = ObjectIdGetDatum(role);
	nulls[Anum_contact_node - 1] = true;
	nulls[Anum_contact_version - 1] = true;
	values[Anum_contact_first_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[Anum_contact_last_at - 1] = true;
	values[Anum_contact_attempts - 1] = Int32GetDatum(0);
	nulls[Anum_contact_last_error - 1] = true;
	nulls[Anum_contact_next_attempt - 1] = true;
	own_insert(OWN_CONTACT, values, nulls);
}

/* Branches that join in this database. */
static void
serve_registers(void)
{
	RegisterRequest requests[DTX_CONTACT_REQUESTS];
	uint32		numbers[DTX_CONTACT_REQUESTS];
	int			n;

	SpinLockAcquire(&worker.slot->mutex);
	n = worker.slot->nregisters;
	memcpy(requests, worker.slot->registers, n * sizeof(RegisterRequest));
	worker.slot->nregisters = 0;
	SpinLockRelease(&worker.slot->mutex);
	if (n == 0)
		return;
	worker_begin();
	for (int i = 0; i < n; i++)
		numbers[i] = shared_register_here(&requests[i]);
	worker_commit(true);
	for (int i = 0; i < n; i++)
	{
		ProcessSlot *slot = process_slot(requests[i].process);
		Latch	   *latch = slot->latch;

		SpinLockAcquire(&slot->mutex);
		slot->registered_token = requests[i].token;
		slot->registered_b = numbers[i];
		SpinLockRelease(&slot->mutex);
		if (latch != NULL)
			SetLatch(latch);
	}
	worker.last_work = GetCurrentTimestamp();
}

void
recovery_serve_requests(void)
{
	ContactRequest requests[DTX_CONTACT_REQUESTS];
	int			n;

	SpinLockAcquire(&worker.slot->mutex);
	n = worker.slot->nrequests;
	memcpy(requests, worker.slot->requests, n * sizeof(ContactRequest));
	worker.slot->nrequests = 0;
	SpinLockRelease(&worker.slot->mutex);
	serve_registers();
	if (n == 0)
		return;

	for (int i = 0; i < n; i++)
	{
		/* one by one: several sessions may ask for the same pair */
		worker_begin();
		if (!contact_exists(requests[i].server, requests[i].role))
		{
			insert_contact(requests[i].server, requests[i].role);
			channel_get(requests[i].server, requests[i].role)->gone = false;
			worker.slot->has_contacts = true;
		}
		worker_commit(true);
	}
	for (int i = 0; i < n; i++)
	{
		Latch	   *latch = process_slot(requests[i].process)->latch;

		if (latch != NULL)
			SetLatch(latch);
	}
	worker.last_work = GetCurrentTimestamp();
}

void
contact_record(Channel *channel, const char *error, TimestampTz next_attempt)
{
	Datum		values[Natts_contact] = {0};
	bool		nulls[Natts_contact] = {0};
	bool		replace[Natts_contact] = {0};
	OwnScan		scan;
	HeapTuple	tuple;

	worker_begin();
	own_scan_all(&scan, OWN_CONTACT, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (DatumGetObjectId(own_column(&scan, tuple, Anum_contact_server, NULL)) != channel->server ||
			DatumGetObjectId(own_column(&scan, tuple, Anum_contact_role, NULL)) != channel->role)
			continue;
		replace[Anum_contact_attempts - 1] = true;
		values[Anum_contact_attempts - 1] = Int32GetDatum(error != NULL ? channel->failures : 0);
		replace[Anum_contact_last_error - 1] = error != NULL;
		if (error != NULL)
			values[Anum_contact_last_error - 1] = CStringGetTextDatum(error);
		replace[Anum_contact_next_attempt - 1] = true;
		values[Anum_contact_next_attempt - 1] = TimestampTzGetDatum(next_attempt);
		nulls[Anum_contact_next_attempt - 1] = error == NULL;
		if (error == NULL && channel->connection.pc != NULL)
		{
			replace[Anum_contact_node - 1] = replace[Anum_contact_version - 1] = true;
			replace[Anum_contact_last_at - 1] = true;
			values[Anum_contact_node - 1] = CStringGetTextDatum(channel->connection.pc->peer_node);
			values[Anum_contact_version - 1] = CStringGetTextDatum(channel->connection.pc->peer_version);
			values[Anum_contact_last_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
		}
		own_update(&scan, tuple, values, nulls, replace);
		break;
	}
	own_scan_end(&scan);
	worker_commit(false);
}
