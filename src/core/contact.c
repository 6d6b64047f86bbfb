/*
 * contact.c
 *		Asking the worker to record a contact, once for each (server, role).
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/contact.h"
#include "core/node.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "guc.h"
#include "net/connection.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

typedef struct KnownContact
{
	Oid			server;
	Oid			role;
	Oid			table;			/* dtx.contact: another one after DROP EXTENSION */
	char		node[DTX_NODE_SIZE];	/* another one after dtx_node_reset */
} KnownContact;

static HTAB *known = NULL;

/* A server, a mapping or a role changed: what was dropped is forgotten by the
 * worker too, and has to be recorded again. */
static void
forget_known(Datum arg, int cacheid, uint32 hashvalue)
{
	if (known != NULL)
		hash_destroy(known);
	known = NULL;
}

static void
ensure_known(void)
{
	if (known == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(KnownContact), .entrysize = sizeof(KnownContact)};

		known = hash_create("dtx contacts", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
}

static bool
find_contact(Oid server, Oid role, const char *node)
{
	ScanKeyData keys[2];
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&keys[0], Anum_contact_server, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(server));
	ScanKeyInit(&keys[1], Anum_contact_role, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(role));
	own_scan_begin(&scan, OWN_CONTACT, OWN_CONTACT_PKEY, AccessShareLock, 2, keys);
	found = HeapTupleIsValid(tuple = own_scan_next(&scan));
	if (found && node != NULL)
	{
		bool		isnull;
		Datum		known_node = own_column(&scan, tuple, Anum_contact_node, &isnull);

		found = !isnull && strcmp(TextDatumGetCString(known_node), node) == 0;
	}
	own_scan_end(&scan);
	return found;
}

bool
contact_exists(Oid server, Oid role)
{
	return find_contact(server, role, NULL);
}

bool
contact_leads_to(Oid server, Oid role, const char *node)
{
	return find_contact(server, role, node);
}

static void
post_request(DatabaseSlot *slot, Oid server, Oid role)
{
	ContactRequest request = {server, role, dtx_process_number()};
	bool		posted = false;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < slot->nrequests; i++)
		posted |= memcmp(&slot->requests[i], &request, sizeof(request)) == 0;
	if (!posted && slot->nrequests < DTX_CONTACT_REQUESTS)
		slot->requests[slot->nrequests++] = request;
	SpinLockRelease(&slot->mutex);
	worker_wake(slot);
}

void
contact_ensure(Oid server, Oid role, TimestampTz deadline)
{
	static bool registered = false;
	KnownContact key;
	DatabaseSlot *slot;
	TimestampTz until;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, forget_known, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, forget_known, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, forget_known, (Datum) 0);
		registered = true;
	}

	memset(&key, 0, sizeof(key));
	key.server = server;
	key.role = role;
	key.table = own_relid(OWN_CONTACT);
	strlcpy(key.node, node_self(), sizeof(key.node));
	ensure_known();
	if (hash_search(known, &key, HASH_FIND, NULL) != NULL)
		return;

	slot = my_database_slot();
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases use dtx"),
				 errhint("Raise dtx.max_databases and restart the server.")));
	my_process_slot();
	until = TimestampTzPlusMilliseconds(clock_now(), guc_connect_timeout);
	if (deadline != 0 && deadline < until)
		until = deadline;
	while (!contact_exists(server, role))
	{
		long		timeout = deadline_remaining(until);

		if (timeout == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("dtx has no worker in this database"),
					 errdetail("A peer that is used for the first time is recorded by the worker."),
					 errhint("See the server's log; max_worker_processes may be too low.")));
		post_request(slot, server, role);
		/* the worker sets the latch when the row is there; ask again if not */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	ensure_known();
	(void) hash_search(known, &key, HASH_ENTER, NULL);
}
