/*
 * prepared.c
 *		The participant's prepared transactions.
 */
#include "postgres.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "core/fault.h"
#include "core/relations.h"
#include "core/subxact.h"
#include "core/tell.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "xa/xa.h"

/* not the view: that names the owner, who may be gone */
#define PREPARED_SQL \
	"SELECT p.gid, p.ownerid, p.prepared FROM pg_catalog.pg_prepared_xact() p" \
	" WHERE p.dbid OPERATOR(pg_catalog.=) $1"

static Oid
owner_of(HeapTuple tuple)
{
	bool		isnull;

	return DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
}

/* Is it prepared, and may this role end it? */
static bool
is_prepared(const char *gid)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(MyDatabaseId), CStringGetTextDatum(gid)};
	bool		found;

	SPI_connect();
	found = SPI_execute_with_args(PREPARED_SQL " AND p.gid OPERATOR(pg_catalog.=) $2",
								  2, types, values, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1 &&
		(owner_of(SPI_tuptable->vals[0]) == GetUserId() || superuser());
	SPI_finish();
	return found;
}

/* Has a branch that is prepared branches of its own? Their rows go with it. */
static bool
has_children(const char *gid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_dirty(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (!found && HeapTupleIsValid(tuple = own_scan_next(&scan)))
		found = DatumGetInt32(own_column(&scan, tuple, Anum_joined_branch_children, NULL)) > 0 &&
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)), gid) == 0;
	own_scan_end(&scan);
	return found;
}

typedef struct FinishWork
{
	const char *gid;
	bool		commit;
} FinishWork;

static void
finish(void *arg)
{
	FinishWork *work = arg;

	FinishPreparedTransaction(work->gid, work->commit);
}

/*
 * End the prepared transaction of a branch. It does not matter whether this
 * transaction commits afterwards: the branch's row then tells that it was done.
 */
bool
xa_settle_held(const JoinedBranch *branch, bool commit)
{
	FinishWork	work = {branch->gid_text, commit};
	ErrorData  *error;

	if (!is_prepared(branch->gid_text))
		return false;
	/* statistics of a transaction below its first level would be mixed up */
	if (GetCurrentTransactionNestLevel() > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("branch \"%s\" is prepared, and cannot be settled in a subtransaction", branch->gid_text)));
	if (!commit && has_children(branch->gid_text))
	{
		/* nothing is left here that names its branches: the peers know them */
		Outcome		ask = {.kind = OUTCOME_ASK};

		tell_worker_at_commit(&ask);
	}
	DTX_FAULT_POINT("xa-before-finish");
	error = subxact_run(finish, &work);
	/* another session is ending it, or just has; what is worse ends this call,
	 * and with it the hold on the prepared transaction */
	if (error != NULL && error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE &&
		error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT)
		ReThrowError(error);
	DTX_FAULT_POINT("xa-after-finish");
	return error == NULL;
}

/* Who began a nested branch stands in its row, which is not visible yet. */
static void
find_superior(HeldBranch *branch)
{
	OwnScan		scan;
	HeapTuple	tuple;

	own_scan_dirty(&scan, OWN_JOINED_BRANCH, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		isnull;
		Datum		superior = own_column(&scan, tuple, Anum_joined_branch_superior, &isnull);

		if (isnull ||
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_joined_branch_gid, NULL)),
				   branch->gid_text) != 0)
			continue;
		text_to_cstring_buffer(DatumGetTextPP(superior), branch->superior, sizeof(branch->superior));
		branch->superior_n = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_joined_branch_superior_n, NULL));
		break;
	}
	own_scan_end(&scan);
}

List *
xa_list_held(List *held)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(MyDatabaseId)};

	SPI_connect();
	if (SPI_execute_with_args(PREPARED_SQL, 1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read pg_prepared_xacts")));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		char	   *text = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
		MemoryContext old;
		HeldBranch *branch;
		bool		isnull;
		Gid			gid;

		if (strlen(text) >= DTX_GID_SIZE || !gid_parse(text, &gid))
			continue;
		old = MemoryContextSwitchTo(context);
		branch = palloc0(sizeof(HeldBranch));
		strlcpy(branch->gid_text, text, sizeof(branch->gid_text));
		branch->role = owner_of(tuple);
		branch->held_since = DatumGetTimestampTz(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &isnull));
		strlcpy(branch->superior, gid.xid.node, sizeof(branch->superior));
		branch->superior_n = gid.xid.n;
		if (gid.depth > 1)
			find_superior(branch);
		held = lappend(held, branch);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return held;
}
