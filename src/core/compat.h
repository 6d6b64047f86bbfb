/*
 * compat.h
 *		The differences between the supported major versions of PostgreSQL.
 *
 * This is the only place that asks for the version.
 *
 * Between minor releases PostgreSQL keeps what is exported: functions, variables,
 * and the layout of structures in installed headers, to which it may append. What a
 * private field means may change, though: WalSndCtl->sync_standbys_defined, a bool,
 * became sync_standbys_status, a set of flags, in the middle of several majors' lives. A
 * distribution puts a new minor release under an extension that was built against an
 * older one, so nothing here may hang on such a thing. What dtx touches beyond
 * functions and variables:
 *
 *	WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH]		shared memory; how far the standbys are. No
 *			function tells: SyncRepGetCandidateStandbys() knows those that are
 *			connected now, not what was acknowledged. Only dtx_flushed_by_standbys()
 *			reads it. Its place and meaning are those of 9.4.
 *	MyProc->procLatch						its address, as every extension takes it
 *	ActivePortal->name, ->stmts				core/escape.c: is it the caller's own statement?
 *	Relation: rd_rel, rd_att, rd_id, rd_index, rd_opfamily, rd_opcintype, rd_indcollation,
 *			trigdesc and its triggers		the relation cache's public part
 *	TupleTableSlot: tts_values, tts_isnull, tts_tid, tts_tableOid; TupleDesc; HeapTuple and
 *			its header (what comes before t_infomask2 is left out of an image: at/image.c)
 *	SnapshotData: xmin, xmax; InitDirtySnapshot
 *	PlannedStmt, parse trees of utility statements, FuncExpr, TargetEntry: in the hooks
 *	TriggerData, EventTriggerData, ReturnSetInfo, FmgrInfo, FunctionCallInfo, JsonbValue,
 *			JsonbIterator, Tuplestore and SPI's tables: the interfaces of functions
 *	ForeignServer, UserMapping, TypeCacheEntry: lsyscache's and foreign.h's answers
 *
 * and what it makes of its own and gives away, which a server that was built later must
 * not find too small: ResultRelInfo and VacuumParams are made here, with room (a
 * minor release once appended to the one); RangeTblEntry, TriggerData, TM_FailureData, SnapshotData, LOCKTAG,
 * ScanKeyData, HASHCTL, BackgroundWorker, IndexInfo (empty, which B-trees do not look
 * at), LWLock and ConditionVariable in shared memory: they have not grown in a
 * minor release so far. .ci/minors builds with old headers and runs on a new server.
 */
#ifndef DTX_COMPAT_H
#define DTX_COMPAT_H

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "commands/vacuum.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "postmaster/interrupt.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
#if PG_VERSION_NUM >= 190000
#include "nodes/miscnodes.h"
#endif
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

/* what a hook after the analysis of a query is given besides; nothing is made of it here */
#if PG_VERSION_NUM >= 190000
typedef const struct JumbleState DtxJumbleState;
#else
typedef struct JumbleState DtxJumbleState;
#endif

/* before a function's declaration, as since version 18 */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * Does a commit here wait for synchronous standbys? Whatever this very transaction
 * waits for: not SyncRepRequested(). The setting answers, not what the checkpointer
 * made of it in shared memory (see above). It may have changed while this process
 * has not read it yet: then it counts as if there were standbys to wait for, and
 * who asks waits until it has.
 */
static inline bool
dtx_waits_for_standbys(void)
{
	return max_wal_senders > 0 &&
		(ConfigReloadPending || (SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0'));
}

/* How far the synchronous standbys have flushed, as those who wait for them are told. */
static inline XLogRecPtr
dtx_flushed_by_standbys(void)
{
	return ((volatile WalSndCtlData *) WalSndCtl)->lsn[SYNC_REP_WAIT_FLUSH];
}

/*
 * A node that the server fills by the size it has there: made with room for fields
 * that a later minor release may append.
 */
static inline ResultRelInfo *
dtx_make_result_rel_info(void)
{
	ResultRelInfo *rri = palloc0(2 * sizeof(ResultRelInfo));

	rri->type = T_ResultRelInfo;
	return rri;
}

/* The parameters of a vacuum, with such room. */
typedef union DtxVacuumParams
{
	char		room[2 * sizeof(VacuumParams)]; /* first: {0} clears it all */
	VacuumParams params;
} DtxVacuumParams;

/* Such a vacuum is not in the log, however long it takes. */
static inline void
dtx_vacuum_is_not_logged(VacuumParams *params)
{
#if PG_VERSION_NUM >= 190000
	params->log_vacuum_min_duration = params->log_analyze_min_duration = -1;
#else
	params->log_min_duration = -1;
#endif
}

/* transaction_timeout, in ms: before version 17 there is none */
#if PG_VERSION_NUM >= 170000
#include "storage/proc.h"
#define dtx_transaction_timeout()	TransactionTimeout
#else
#define dtx_transaction_timeout()	0
#endif

/* vacuum a table itself and its TOAST table */
#if PG_VERSION_NUM >= 160000
#define DTX_VACUUM_ALL	(VACOPT_PROCESS_MAIN | VACOPT_PROCESS_TOAST)
#else
#define DTX_VACUUM_ALL	VACOPT_PROCESS_TOAST
#endif

/* In a query of pg_constraint c: is it enforced? Before version 18 all are. */
#if PG_VERSION_NUM >= 180000
#define DTX_CONSTRAINT_ENFORCED	" AND c.conenforced"
#else
#define DTX_CONSTRAINT_ENFORCED	""
#endif

/* The number of this process's slot in arrays of one entry a process. */
#if PG_VERSION_NUM >= 170000
#include "storage/proc.h"
#define dtx_process_number()	((int) MyProcNumber)
#define dtx_process_slots()		((int) (MaxBackends + NUM_AUXILIARY_PROCS))
#else
#include "storage/backendid.h"
#define dtx_process_number()	((int) MyBackendId - 1)
#define dtx_process_slots()		((int) MaxBackends)
#endif

/* A wait event set that lives until it is freed. */
static inline WaitEventSet *
dtx_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* May this role connect to that database? */
static inline AclResult
dtx_database_aclcheck(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, database, role, ACL_CONNECT);
#else
	return pg_database_aclcheck(database, role, ACL_CONNECT);
#endif
}

/* Does this role own that database? */
static inline bool
dtx_database_ownercheck(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

/* May this role create databases? have_createdb_privilege() is not exported by every release of 15. */
static inline bool
dtx_may_create_databases(Oid role)
{
	HeapTuple	tuple;
	bool		may = superuser_arg(role);

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	if (HeapTupleIsValid(tuple))
	{
		may = may || ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

/* May this role use that foreign server? */
static inline AclResult
dtx_server_aclcheck(Oid server, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE);
#else
	return pg_foreign_server_aclcheck(server, role, ACL_USAGE);
#endif
}

/* Does this role own that table? */
static inline bool
dtx_table_ownercheck(Oid table, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, table, role);
#else
	return pg_class_ownercheck(table, role);
#endif
}

/* May this role call that function? */
static inline AclResult
dtx_function_aclcheck(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE);
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE);
#endif
}

/*
 * Lock an object of this database, if that needs no wait. ConditionalLockDatabaseObject() came in a
 * minor release: older ones lack it.
 */
static inline bool
dtx_conditional_lock_object(Oid class, Oid object, LOCKMODE mode)
{
	LOCKTAG		tag;
	LockAcquireResult result;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, class, object, 0);
	result = LockAcquire(&tag, mode, false, true);
	if (result == LOCKACQUIRE_OK)
		AcceptInvalidationMessages();
	return result != LOCKACQUIRE_NOT_AVAIL;
}

/* Does this transaction hold that lock, in just this mode? */
static inline bool
dtx_lock_held(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/*
 * Replace a row by TID, with its index entries. No index is asked to be unique, or a
 * constraint to exclude: the OIDs of those that may not be are returned, to be asked later.
 */
#if PG_VERSION_NUM >= 190000
#define dtx_insert_index_tuples(rri, estate, slot, update, summarizing) \
	ExecInsertIndexTuples(rri, estate, EIIT_NO_DUPE_ERROR | ((update) ? EIIT_IS_UPDATE : 0) | \
						  ((summarizing) ? EIIT_ONLY_SUMMARIZING : 0), slot, NIL, NULL)
#elif PG_VERSION_NUM >= 160000
#define dtx_insert_index_tuples(rri, estate, slot, update, summarizing) \
	ExecInsertIndexTuples(rri, slot, estate, update, true, NULL, NIL, summarizing)
#else
#define dtx_insert_index_tuples(rri, estate, slot, update, summarizing) \
	ExecInsertIndexTuples(rri, slot, estate, update, true, NULL, NIL)
#endif

static inline List *
dtx_table_tuple_update(ResultRelInfo *rri, EState *estate, Relation rel, ItemPointer tid,
					   TupleTableSlot *slot)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	simple_table_tuple_update(rel, tid, slot, InvalidSnapshot, &which);
	if (which != TU_None)
		return dtx_insert_index_tuples(rri, estate, slot, false, which == TU_Summarizing);
#else
	bool		update_indexes;

	simple_table_tuple_update(rel, tid, slot, InvalidSnapshot, &update_indexes);
	if (update_indexes)
		return dtx_insert_index_tuples(rri, estate, slot, false, false);
#endif
	return NIL;
}

/* Insert a row, with its index entries; the same holds of these. */
static inline List *
dtx_table_tuple_insert(ResultRelInfo *rri, EState *estate, Relation rel,
					   TupleTableSlot *slot)
{
	simple_table_tuple_insert(rel, slot);
	return dtx_insert_index_tuples(rri, estate, slot, false, false);
}

/* Replace a row of a table without indexes. */
static inline void
dtx_simple_heap_update(Relation rel, ItemPointer tid, HeapTuple tuple)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	simple_heap_update(rel, tid, tuple, &which);
#else
	simple_heap_update(rel, tid, tuple);
#endif
}

static inline Oid
dtx_primary_key_index(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

static inline IndexScanDesc
dtx_index_beginscan(Relation rel, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, snapshot, nkeys, 0);
#endif
}

/*
 * What is said of a row's columns was changed by hand: bring what is derived from it in line.
 * Without this, later versions read values at the places of other columns.
 */
static inline void
dtx_descriptor_changed(TupleDesc desc)
{
#if PG_VERSION_NUM >= 180000
	for (int i = 0; i < desc->natts; i++)
		populate_compact_attribute(desc, i);
#endif
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* Scans of a table: of all its rows, and of those between two places. */
#if PG_VERSION_NUM >= 190000
#define dtx_table_beginscan(rel, snapshot)	table_beginscan(rel, snapshot, 0, NULL, SO_NONE)
#define dtx_table_beginscan_tidrange(rel, snapshot, first, last) \
	table_beginscan_tidrange(rel, snapshot, first, last, SO_NONE)
#else
#define dtx_table_beginscan(rel, snapshot)	table_beginscan(rel, snapshot, 0, NULL)
#define dtx_table_beginscan_tidrange(rel, snapshot, first, last) \
	table_beginscan_tidrange(rel, snapshot, first, last)
#endif

/* A range table of one relation, for an executor state made by hand. */
static inline void
dtx_init_range_table(EState *estate, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 180000
	List	   *permissions = NIL;

	addRTEPermissionInfo(&permissions, rte);
	ExecInitRangeTable(estate, list_make1(rte), permissions, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	List	   *permissions = NIL;

	addRTEPermissionInfo(&permissions, rte);
	ExecInitRangeTable(estate, list_make1(rte), permissions);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

static inline void
dtx_vacuum(List *relations, VacuumParams *params, BufferAccessStrategy strategy,
		   MemoryContext context)
{
#if PG_VERSION_NUM >= 160000
	vacuum(relations, params, strategy, context, true);
#else
	vacuum(relations, params, strategy, true);
#endif
}

/* The oldest transaction that is still running, of any database. */
static inline TransactionId
dtx_oldest_active_transaction(void)
{
#if PG_VERSION_NUM >= 190000
	return GetOldestActiveTransactionId(false, true);
#else
	return GetOldestActiveTransactionId();
#endif
}

/* The relations that a planned statement changes, by OID. */
static inline List *
dtx_result_relations(const PlannedStmt *statement)
{
	List	   *relids = NIL;
#if PG_VERSION_NUM >= 190000
	int			index = -1;

	while ((index = bms_next_member(statement->resultRelationRelids, index)) >= 0)
		relids = lappend_oid(relids, rt_fetch(index, statement->rtable)->relid);
#else
	ListCell   *cell;

	foreach(cell, statement->resultRelations)
		relids = lappend_oid(relids, rt_fetch(lfirst_int(cell), statement->rtable)->relid);
#endif
	return relids;
}

/* A value of jsonb in the making: zeroes at first, and result is there when it is complete. */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState DtxJsonb;
#define dtx_push_jsonb(state, token, value)		pushJsonbValue(state, token, value)
#else
typedef struct DtxJsonb
{
	JsonbParseState *stack;
	JsonbValue *result;
} DtxJsonb;

static inline void
dtx_push_jsonb(DtxJsonb *state, JsonbIteratorToken token, JsonbValue *value)
{
	state->result = pushJsonbValue(&state->stack, token, value);
}
#endif

/* Is this a position in the WAL? */
static inline bool
dtx_is_lsn(const char *text)
{
#if PG_VERSION_NUM >= 190000
	ErrorSaveContext context = {T_ErrorSaveContext};

	(void) pg_lsn_in_safe(text, (Node *) &context);
	return !context.error_occurred;
#else
	bool		error = false;

	(void) pg_lsn_in_internal(text, &error);
	return !error;
#endif
}

#endif							/* DTX_COMPAT_H */
