/*
 * relations.h
 *		dtx's own tables: their OIDs, their columns, and writing a row.
 *
 * The hot path reads and writes them through the table and index access
 * methods, without SQL: a branch costs three rows, and a plan's execution
 * costs more than the row.
 */
#ifndef DTX_RELATIONS_H
#define DTX_RELATIONS_H

#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

typedef enum OwnRelation
{
	OWN_NODE,
	OWN_CONTACT,
	OWN_CONTACT_PKEY,
	OWN_BRANCH,
	OWN_BRANCH_N_IDX,
	OWN_GLOBAL,
	OWN_GLOBAL_PKEY,
	OWN_SHARED_B,
	OWN_HISTORY,
	OWN_JOINED_BRANCH,
	OWN_JOINED_BRANCH_PKEY,
	OWN_SETTLED,
	OWN_COORDINATOR,
	OWN_COORDINATOR_PKEY,
	OWN_RESOLUTION,
	OWN_RESOLUTION_PKEY,
	OWN_UNDO_LOG,
	OWN_UNDO_LOG_KEY_IDX,
	OWN_RELATION_SHAPE,
	OWN_RELATION_SHAPE_IDX,
	OWN_TCC_ACTION,
	OWN_TCC_ACTION_PKEY,
	OWN_TRY_LOG,
	OWN_TRY_LOG_PKEY,
	OWN_CONFIRM_LOG,
	OWN_CONFIRM_LOG_PKEY,
	OWN_CANCEL_LOG,
	OWN_CANCEL_LOG_PKEY,
	OWN_LEDGER,
	OWN_FROZEN,
	OWN_FROZEN_PKEY,
	OWN_MESSAGE,
	OWN_MESSAGE_ID,
	OWN_MESSAGE_SEGMENT,
	OWN_DELAYED_MESSAGE,
	OWN_DELAYED_MESSAGE_DELIVER_AT_IDX,
	OWN_HELD_MESSAGE,
	OWN_HELD_MESSAGE_BRANCH_IDX,
	OWN_HALF_MESSAGE,
	OWN_HALF_MESSAGE_PKEY,
	OWN_HALF_MESSAGE_NEXT_CHECK_IDX,
	OWN_SUBSCRIPTION,
	OWN_POSITION,
	OWN_UNDELIVERED,
	OWN_DE_DUPLICATION,
	OWN_DE_DUPLICATION_PKEY,
	OWN_NOTIFICATION,
	OWN_HELD_NOTIFICATION,
	OWN_HELD_NOTIFICATION_BRANCH_IDX,
	OWN_EXPECTATION,
	OWN_COUNT
} OwnRelation;

/* columns, in the order of the install script */
enum
{
	Anum_node_tag = 1, Anum_node_name, Anum_node_system_identifier, Anum_node_database,
	Anum_node_created_at, Anum_node_retired_at, Anum_node_memory_from, Anum_node_place,
	Anum_node_timeline, Natts_node = 9
};
enum
{
	Anum_contact_server = 1, Anum_contact_role, Anum_contact_node, Anum_contact_version,
	Anum_contact_first_at, Anum_contact_last_at, Anum_contact_attempts,
	Anum_contact_last_error, Anum_contact_next_attempt, Natts_contact = 9
};
enum
{
	Anum_branch_n = 1, Anum_branch_b, Anum_branch_server, Anum_branch_role,
	Anum_branch_created_at, Anum_branch_next_attempt, Anum_branch_attempts,
	Anum_branch_mode, Anum_branch_gid, Anum_branch_participant, Anum_branch_last_error,
	Anum_branch_state, Anum_branch_parent, Anum_branch_step, Natts_branch = 14
};
enum
{
	Anum_global_n = 1, Anum_global_r, Anum_global_state, Anum_global_role,
	Anum_global_opened_at, Anum_global_deadline, Anum_global_ended_at,
	Anum_global_name, Anum_global_xid, Anum_global_joiners, Natts_global = 10
};
enum
{
	Anum_history_settled_at = 1, Anum_history_decision, Anum_history_node,
	Anum_history_min_n, Anum_history_max_n, Anum_history_n, Anum_history_r,
	Anum_history_b, Anum_history_server, Anum_history_role, Anum_history_mode,
	Anum_history_parent, Natts_history = 12
};
enum
{
	Anum_joined_branch_branch = 1, Anum_joined_branch_lsn, Anum_joined_branch_changes,
	Anum_joined_branch_joined_at, Anum_joined_branch_role, Anum_joined_branch_attempts,
	Anum_joined_branch_mode, Anum_joined_branch_state, Anum_joined_branch_gid,
	Anum_joined_branch_first_entry, Anum_joined_branch_last_entry,
	Anum_joined_branch_conflict, Anum_joined_branch_last_error,
	Anum_joined_branch_local_n, Anum_joined_branch_children,
	Anum_joined_branch_superior, Anum_joined_branch_superior_n, Anum_joined_branch_step,
	Natts_joined_branch = 18
};
enum
{
	Anum_settled_settled_at = 1, Anum_settled_max_n, Anum_settled_role, Anum_settled_decision,
	Anum_settled_coordinator, Anum_settled_branches, Natts_settled = 6
};
enum
{
	Anum_coordinator_node = 1, Anum_coordinator_role, Anum_coordinator_horizon,
	Anum_coordinator_timeline, Anum_coordinator_updated_at, Natts_coordinator = 5
};
enum
{
	Anum_resolution_gid = 1, Anum_resolution_decision, Anum_resolution_role,
	Anum_resolution_resolved_by, Anum_resolution_resolved_at, Anum_resolution_mode,
	Anum_resolution_state, Anum_resolution_compared_at, Anum_resolution_superior,
	Anum_resolution_superior_n, Natts_resolution = 10
};
enum
{
	Anum_tcc_action_action = 1, Anum_tcc_action_owner, Anum_tcc_action_try,
	Anum_tcc_action_confirm, Anum_tcc_action_cancel, Anum_tcc_action_names,
	Anum_tcc_action_types, Anum_tcc_action_defined_at, Natts_tcc_action = 8
};
enum
{
	Anum_try_log_branch = 1, Anum_try_log_gid, Anum_try_log_role, Anum_try_log_tried_at,
	Anum_try_log_action, Anum_try_log_confirm, Anum_try_log_cancel, Anum_try_log_args,
	Anum_try_log_local, Anum_try_log_settings, Natts_try_log = 10
};
/* dtx.confirm_log and dtx.cancel_log are alike */
enum
{
	Anum_end_log_branch = 1, Anum_end_log_gid, Anum_end_log_ended_at, Anum_end_log_ran,
	Natts_end_log = 4
};
enum
{
	Anum_undo_log_branch = 1, Anum_undo_log_key_hash, Anum_undo_log_seq,
	Anum_undo_log_cid, Anum_undo_log_relation, Anum_undo_log_shape,
	Anum_undo_log_op, Anum_undo_log_before, Anum_undo_log_after, Natts_undo_log = 9
};
enum
{
	Anum_relation_shape_relation = 1, Anum_relation_shape_shape,
	Anum_relation_shape_attnums, Anum_relation_shape_types, Anum_relation_shape_typmods,
	Anum_relation_shape_names, Natts_relation_shape = 6
};
enum
{
	Anum_ledger_relation = 1, Anum_ledger_account, Anum_ledger_balance, Natts_ledger = 3
};

enum
{
	Anum_frozen_branch = 1, Anum_frozen_gid, Anum_frozen_account, Anum_frozen_amount, Anum_frozen_role,
	Anum_frozen_frozen_at, Natts_frozen = 6
};

/* each segment of dtx.message has these */
enum
{
	Anum_message_id = 1, Anum_message_xid, Anum_message_published_at, Anum_message_topic,
	Anum_message_key, Anum_message_payload, Anum_message_headers, Natts_message = 7
};
enum
{
	Anum_message_segment_segment = 1, Anum_message_segment_relation, Anum_message_segment_opened_at,
	Anum_message_segment_closed_at, Anum_message_segment_closed_xid, Natts_message_segment = 5
};
enum
{
	Anum_delayed_message_deliver_at = 1, Anum_delayed_message_id, Anum_delayed_message_topic,
	Anum_delayed_message_key, Anum_delayed_message_payload, Anum_delayed_message_headers,
	Natts_delayed_message = 6
};
enum
{
	Anum_held_message_branch = 1, Anum_held_message_id, Anum_held_message_deliver_at,
	Anum_held_message_topic, Anum_held_message_key, Anum_held_message_payload,
	Anum_held_message_headers, Natts_held_message = 7
};
enum
{
	Anum_half_message_id = 1, Anum_half_message_role, Anum_half_message_topic, Anum_half_message_key,
	Anum_half_message_payload, Anum_half_message_headers, Anum_half_message_checker,
	Anum_half_message_prepared_at, Anum_half_message_attempts, Anum_half_message_next_check,
	Anum_half_message_last_error, Anum_half_message_planned_at, Natts_half_message = 12
};
enum
{
	Anum_subscription_id = 1, Anum_subscription_uid, Anum_subscription_name, Anum_subscription_topic,
	Anum_subscription_server, Anum_subscription_handler, Anum_subscription_role,
	Anum_subscription_ordered, Anum_subscription_schedule, Anum_subscription_max_attempts,
	Anum_subscription_batch_size, Anum_subscription_paused, Anum_subscription_generation,
	Anum_subscription_start, Anum_subscription_since_id, Anum_subscription_since_time,
	Anum_subscription_since_seen, Anum_subscription_created_at, Natts_subscription = 18
};
enum
{
	Anum_position_subscription = 1, Anum_position_generation, Anum_position_batch,
	Anum_position_passed, Anum_position_upto, Anum_position_cursor, Anum_position_delivered,
	Anum_position_delivered_at, Anum_position_rate, Anum_position_attempts, Anum_position_next_attempt,
	Anum_position_last_error, Anum_position_refused, Natts_position = 13
};
enum
{
	Anum_undelivered_subscription = 1, Anum_undelivered_generation, Anum_undelivered_id,
	Anum_undelivered_xid, Anum_undelivered_state, Anum_undelivered_attempts,
	Anum_undelivered_next_attempt, Anum_undelivered_changed_at, Anum_undelivered_published_at,
	Anum_undelivered_topic, Anum_undelivered_key, Anum_undelivered_payload, Anum_undelivered_headers,
	Anum_undelivered_last_error, Natts_undelivered = 14
};
enum
{
	Anum_de_duplication_subscription = 1, Anum_de_duplication_generation, Anum_de_duplication_batch,
	Anum_de_duplication_received_at, Anum_de_duplication_role, Anum_de_duplication_forgotten,
	Anum_de_duplication_ids, Anum_de_duplication_published, Natts_de_duplication = 8
};
enum
{
	Anum_held_notification_branch = 1, Anum_held_notification_id, Anum_held_notification_server,
	Anum_held_notification_role, Anum_held_notification_tx_no, Anum_held_notification_schedule,
	Anum_held_notification_payload, Natts_held_notification = 7
};

/*
 * Anybody may have a schema dtx, where the extension is not: what is dtx's is a
 * member of the extension, or an index of such a table.
 */

/* Is the extension installed in this database? */
extern bool own_extension_exists(void);

/* The OID of one of dtx's relations; an ERROR when the extension is not there. */
extern Oid	own_relid(OwnRelation which);

/* The OID of one of dtx's tables, without an error: InvalidOid. */
extern Oid	own_relid_if_any(OwnRelation which);

/* Is the table there still, to be read by C? While DROP EXTENSION runs it may be gone
 * already. One that somebody has altered is not, with a WARNING. */
extern bool own_table_exists(OwnRelation which);

/* The extension's schema; InvalidOid when there is none. */
extern Oid	own_schema(void);

/* Is this object, of a system catalog's, a member of the extension? */
extern bool own_is_member(Oid class_id, Oid object_id);

/* Open one of dtx's tables: with an ERROR when it is not as the script makes it. */
extern Relation own_open(OwnRelation which, LOCKMODE lockmode);

/* Open a relation that a user has named, of whatever kind; an error for users where there is none. */
extern Relation open_named(Oid relid, LOCKMODE lockmode);

/* Is this table, which is open, a segment of dtx.message? An ERROR when it is not. */
extern void own_check_segment(Relation rel);

/*
 * A scan of one of dtx's tables for the rows whose indexed column is key
 * (an int8), under a snapshot that sees all that has committed by now.
 */
typedef struct OwnScan
{
	Relation	rel;
	Snapshot	snapshot;		/* NULL: dirty */
	bool		dirty_first;	/* the dirty scan, before one under a snapshot */
	SnapshotData dirty;
	struct SysScanDescData *scan;
	LOCKMODE	lockmode;
} OwnScan;

/*
 * What scans see: all that has committed by now; or, for what a view shows beside
 * tables of its query, that query's snapshot, until NULL is given again.
 */
extern void own_use_snapshot(Snapshot snapshot);
extern Snapshot own_snapshot(void);

extern void own_scan_begin(OwnScan *scan, OwnRelation table, OwnRelation index,
						   LOCKMODE lockmode, int nkeys, struct ScanKeyData *keys);
extern void own_scan_int8(OwnScan *scan, OwnRelation table, OwnRelation index,
						  LOCKMODE lockmode, int64 key);
extern void own_scan_all(OwnScan *scan, OwnRelation table, LOCKMODE lockmode);

/* All rows, those of transactions under way, prepared ones included, too. Some come
 * twice, or in two versions. */
extern void own_scan_dirty(OwnScan *scan, OwnRelation table, LOCKMODE lockmode);
extern HeapTuple own_scan_next(OwnScan *scan);
extern void own_scan_end(OwnScan *scan);

/* A column of a row; *isnull may be NULL where the column is NOT NULL. */
extern Datum own_column(OwnScan *scan, HeapTuple tuple, int column, bool *isnull);

/* Insert a row with its index entries. */
extern void own_insert(OwnRelation table, Datum *values, bool *nulls);

/* The same, unless a unique index has the key already: then false, and the
 * transaction has to abort. */
extern bool own_insert_unique(OwnRelation table, Datum *values, bool *nulls);

/* Insert rows that are formed already, as one; sets their t_self. The table's
 * indexes are each on one column of type int8. */
extern void own_insert_many(OwnRelation table, HeapTuple *tuples, int count);

/* Replace columns of a row that a scan returned. */
extern void own_update(OwnScan *scan, HeapTuple tuple, Datum *values, bool *nulls,
					   bool *replace);

/* Delete a row that a scan returned. */
extern void own_delete(OwnScan *scan, HeapTuple tuple);

/* The same by the TID that a scan in this transaction returned. */
extern void own_delete_tid(OwnRelation table, ItemPointer tid);

#endif							/* DTX_RELATIONS_H */
