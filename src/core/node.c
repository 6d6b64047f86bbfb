/*
 * node.c
 *		The identity of this node, read from dtx.node and cached.
 *
 * A row of dtx.node says under which (system identifier, database OID) an id
 * was given out. pg_dump carries the table, and CREATE EXTENSION in the
 * restored database adds a row of its own, so a restored dump shows two
 * current rows, and a template copy or a moved cluster one that does not fit.
 * Where the cluster's files lie stands there too: a base backup that is started
 * beside the original is not where its row says.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/node.h"
#include "core/relations.h"
#include "funcapi.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "worker/control.h"

typedef struct NodeName
{
	char		id[DTX_NODE_SIZE];
	bool		current;
	TimestampTz created_at;
	uint64		memory_from;
} NodeName;

static List *node_names = NIL;	/* NodeName, the current one first */
static Oid	node_relid = InvalidOid;
static bool loaded = false;
static bool callback_registered = false;
static const char *distrust;	/* NULL: the identity fits */

PG_FUNCTION_INFO_V1(dtx_node_changed);
PG_FUNCTION_INFO_V1(dtx_node_place);
PG_FUNCTION_INFO_V1(dtx_node_id);
PG_FUNCTION_INFO_V1(dtx_identity_is_trusted);

static void
forget_node(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == node_relid)
		loaded = false;
}

/*
 * Where this cluster's data lie. A copy of the files lies elsewhere. A number of
 * the file system is not proof, but what tells copies apart that were made by
 * copying; a copy made by cloning the whole volume is not noticed.
 */
static int64
node_place(void)
{
	struct stat st;

	if (stat(DataDir, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", DataDir)));
	return (int64) st.st_ino;
}

/*
 * Does this server run where the row says, or has it taken over from the one
 * that did? A standby's files lie elsewhere too, but when it was promoted it
 * began a timeline of its own.
 */
static bool
place_fits(OwnScan *scan, HeapTuple tuple)
{
	bool		isnull;
	Datum		place = own_column(scan, tuple, Anum_node_place, &isnull);
	Datum		timeline;

	if (isnull || DatumGetInt64(place) == node_place() || RecoveryInProgress())
		return true;
	timeline = own_column(scan, tuple, Anum_node_timeline, &isnull);
	return !isnull && node_timeline() > (uint32) DatumGetInt32(timeline);
}

static void
node_load(void)
{
	OwnScan		scan;
	HeapTuple	tuple;
	MemoryContext old;
	int			current = 0;
	bool		fits = true;

	if (loaded)
		return;
	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(forget_node, (Datum) 0);
		callback_registered = true;
	}

	node_relid = own_relid(OWN_NODE);
	list_free_deep(node_names);
	node_names = NIL;
	own_scan_all(&scan, OWN_NODE, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		NodeName   *name;
		char		encoded[NAMEDATALEN];
		bool		null;

		old = MemoryContextSwitchTo(TopMemoryContext);
		name = palloc0(sizeof(NodeName));
		node_name_encode(NameStr(*DatumGetName(own_column(&scan, tuple, Anum_node_name, NULL))), encoded);
		snprintf(name->id, sizeof(name->id), "%s.%s", encoded,
				 TextDatumGetCString(own_column(&scan, tuple, Anum_node_tag, NULL)));
		name->created_at = DatumGetTimestampTz(own_column(&scan, tuple, Anum_node_created_at, NULL));
		(void) own_column(&scan, tuple, Anum_node_retired_at, &null);
		name->current = null;
		name->memory_from = (uint64) DatumGetInt64(own_column(&scan, tuple, Anum_node_memory_from, NULL));
		if (name->current)
		{
			current++;
			fits = fits &&
				(uint64) DatumGetInt64(own_column(&scan, tuple, Anum_node_system_identifier, NULL)) == GetSystemIdentifier() &&
				DatumGetObjectId(own_column(&scan, tuple, Anum_node_database, NULL)) == MyDatabaseId &&
				place_fits(&scan, tuple);
			node_names = lcons(name, node_names);
		}
		else
			node_names = lappend(node_names, name);
		MemoryContextSwitchTo(old);
	}
	own_scan_end(&scan);

	distrust = NULL;
	if (current == 0)
		distrust = "Table dtx.node names no current identity.";
	else if (current > 1)
		distrust = "The database was restored from a dump of another one.";
	else if (!fits)
		distrust = "The database is a copy of another one, or its cluster was moved.";
	loaded = true;
}

const char *
node_self_if_trusted(const char **reason)
{
	node_load();
	if (reason != NULL)
		*reason = distrust;
	return distrust == NULL ? ((NodeName *) linitial(node_names))->id : NULL;
}

const char *
node_self(void)
{
	const char *reason;
	const char *self = node_self_if_trusted(&reason);

	if (self == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_IDENTITY),
				 errmsg("this database's identity as a node of dtx is in doubt"),
				 errdetail("%s", reason),
				 errhint("Run SELECT dtx_node_adopt() if it is the same node, moved, or SELECT dtx_node_reset() if it is a copy and the original lives on.")));
	return self;
}

bool
node_is_self(const char *node)
{
	ListCell   *cell;

	node_load();
	foreach(cell, node_names)
		if (strcmp(((NodeName *) lfirst(cell))->id, node) == 0)
			return true;
	return false;
}

const char *
node_origin(void)
{
	const char *origin = node_self();
	TimestampTz since = DT_NOEND;
	ListCell   *cell;

	foreach(cell, node_names)
	{
		NodeName   *name = lfirst(cell);

		if (name->created_at >= since)
			continue;
		since = name->created_at;
		origin = name->id;
	}
	return origin;
}

List *
node_all_ids(void)
{
	List	   *ids = NIL;
	ListCell   *cell;

	node_load();
	foreach(cell, node_names)
		ids = lappend(ids, pstrdup(((NodeName *) lfirst(cell))->id));
	return ids;
}

uint64
node_memory_from(const char *node)
{
	ListCell   *cell;

	node_load();
	foreach(cell, node_names)
		if (strcmp(((NodeName *) lfirst(cell))->id, node) == 0)
			return ((NodeName *) lfirst(cell))->memory_from;
	return PG_UINT64_MAX;
}

uint32
node_timeline(void)
{
	return GetWALInsertionTimeLine();
}

void
node_settle_in(void)
{
	Datum		values[Natts_node] = {0};
	bool		nulls[Natts_node] = {0};
	bool		replace[Natts_node] = {0};
	OwnScan		scan;
	HeapTuple	tuple;

	values[Anum_node_place - 1] = Int64GetDatum(node_place());
	values[Anum_node_timeline - 1] = Int32GetDatum((int32) node_timeline());
	replace[Anum_node_place - 1] = replace[Anum_node_timeline - 1] = true;
	own_scan_all(&scan, OWN_NODE, RowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		bool		current,
					unknown;
		int64		place;
		Datum		timeline;

		(void) own_column(&scan, tuple, Anum_node_retired_at, &current);
		place = DatumGetInt64(own_column(&scan, tuple, Anum_node_place, &unknown));
		timeline = own_column(&scan, tuple, Anum_node_timeline, &unknown);
		if (!current || (!unknown && place == node_place() &&
						 (uint32) DatumGetInt32(timeline) == node_timeline()))
			continue;
		own_update(&scan, tuple, values, nulls, replace);
		CacheInvalidateRelcache(scan.rel);
	}
	own_scan_end(&scan);
}

/* dtx.node_place(OUT place int8, OUT timeline int4) */
Datum
dtx_node_place(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("return type must be a row type")));
	values[0] = Int64GetDatum(node_place());
	values[1] = Int32GetDatum((int32) node_timeline());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* dtx.node_id(name name, tag text) */
Datum
dtx_node_id(PG_FUNCTION_ARGS)
{
	char		encoded[NAMEDATALEN];

	node_name_encode(NameStr(*PG_GETARG_NAME(0)), encoded);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s.%s", encoded, text_to_cstring(PG_GETARG_TEXT_PP(1)))));
}

/* dtx.identity_is_trusted() */
Datum
dtx_identity_is_trusted(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(node_self_if_trusted(NULL) != NULL);
}

/* dtx.node_changed(): every session reads dtx.node again. */
Datum
dtx_node_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(own_relid(OWN_NODE));
	loaded = false;
	worker_wake_at_commit();
	PG_RETURN_VOID();
}
