/*
 * shape.c
 *		What dtx's own relations are like.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "core/relations.h"
#include "core/shape.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

/* The types of a table's columns, in the order of the install script. */
#define COLUMNS(table, ...) \
	static const Oid table##_types[] = {__VA_ARGS__}; \
	StaticAssertDecl(lengthof(table##_types) == Natts_##table, "columns of dtx." #table)

COLUMNS(node, TEXTOID, NAMEOID, INT8OID, OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, INT4OID);
COLUMNS(contact, OIDOID, OIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TIMESTAMPTZOID);
COLUMNS(branch, INT8OID, INT4OID, OIDOID, OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, CHAROID, TEXTOID, TEXTOID,
		TEXTOID, CHAROID, TEXTOID, INT8OID);
COLUMNS(global, INT8OID, INT8OID, CHAROID, OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID,
		OIDARRAYOID);
COLUMNS(history, TIMESTAMPTZOID, CHAROID, TEXTOID, INT8OID, INT8OID, INT8ARRAYOID, INT8ARRAYOID, INT4ARRAYOID,
		OIDARRAYOID, OIDARRAYOID, CHARARRAYOID, TEXTARRAYOID);
COLUMNS(joined_branch, INT8OID, PG_LSNOID, INT8OID, TIMESTAMPTZOID, OIDOID, INT4OID, CHAROID, CHAROID, TEXTOID, TIDOID,
		TIDOID, TEXTOID, TEXTOID, INT8OID, INT4OID, TEXTOID, INT8OID, TEXTOID);
COLUMNS(settled, TIMESTAMPTZOID, INT8OID, OIDOID, CHAROID, TEXTOID, INT8ARRAYOID);
COLUMNS(coordinator, TEXTOID, OIDOID, INT8OID, INT4OID, TIMESTAMPTZOID);
COLUMNS(resolution, TEXTOID, CHAROID, OIDOID, OIDOID, TIMESTAMPTZOID, CHAROID, CHAROID, TIMESTAMPTZOID, TEXTOID, INT8OID);
COLUMNS(undo_log, INT8OID, INT8OID, INT8OID, INT8OID, OIDOID, INT4OID, CHAROID, BYTEAOID, BYTEAOID);
COLUMNS(relation_shape, OIDOID, INT4OID, INT2ARRAYOID, OIDARRAYOID, INT4ARRAYOID, TEXTARRAYOID);
COLUMNS(tcc_action, TEXTOID, OIDOID, OIDOID, OIDOID, OIDOID, TEXTARRAYOID, OIDARRAYOID, TIMESTAMPTZOID);
COLUMNS(try_log, INT8OID, TEXTOID, OIDOID, TIMESTAMPTZOID, TEXTOID, OIDOID, OIDOID, JSONBOID, BOOLOID, TEXTARRAYOID);
COLUMNS(end_log, INT8OID, TEXTOID, TIMESTAMPTZOID, BOOLOID);
COLUMNS(ledger, OIDOID, NAMEOID, NAMEOID);
COLUMNS(frozen, INT8OID, TEXTOID, TEXTOID, NUMERICOID, OIDOID, TIMESTAMPTZOID);
COLUMNS(message, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID);
COLUMNS(message_segment, INT4OID, OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID);
COLUMNS(delayed_message, TIMESTAMPTZOID, INT8OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID);
COLUMNS(held_message, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID);
COLUMNS(half_message, INT8OID, OIDOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, REGPROCEDUREOID, TIMESTAMPTZOID, INT4OID,
		TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID);
COLUMNS(subscription, INT4OID, INT8OID, TEXTOID, TEXTOID, OIDOID, TEXTOID, OIDOID, BOOLOID, INTERVALARRAYOID, INT4OID,
		INT4OID, BOOLOID, INT4OID, PG_SNAPSHOTOID, INT8OID, TIMESTAMPTZOID, PG_SNAPSHOTOID, TIMESTAMPTZOID);
COLUMNS(position, INT4OID, INT4OID, INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, TIMESTAMPTZOID,
		FLOAT8OID, INT4OID, TIMESTAMPTZOID, TEXTOID, BOOLOID);
COLUMNS(undelivered, INT4OID, INT4OID, INT8OID, XID8OID, CHAROID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID);
COLUMNS(de_duplication, INT8OID, INT4OID, INT8OID, TIMESTAMPTZOID, OIDOID, INT8OID, INT8ARRAYOID, INT8ARRAYOID);
COLUMNS(held_notification, INT8OID, INT8OID, OIDOID, OIDOID, TEXTOID, INTERVALARRAYOID, JSONBOID);

/* rows are inserted by SQL too, or only */
#define OPEN(table) \
	{.name = #table, .kind = RELKIND_RELATION, .natts = lengthof(table##_types), .types = table##_types}
#define CLOSED(table) \
	{.name = #table, .kind = RELKIND_RELATION, .natts = lengthof(table##_types), .types = table##_types, .closed = true}
#define CLOSED_END_LOG(table_name) \
	{.name = #table_name, .kind = RELKIND_RELATION, .natts = lengthof(end_log_types), .types = end_log_types, .closed = true}
#define BY_SQL(table_name)	{.name = #table_name, .kind = RELKIND_RELATION}
#define SEQUENCE(sequence)	{.name = #sequence, .kind = RELKIND_SEQUENCE}
#define INDEX(index, of, is_unique, ...) \
	{.name = #index, .kind = RELKIND_INDEX, .table = of, .unique = is_unique, \
	 .natts = sizeof((int16[]) {__VA_ARGS__}) / sizeof(int16), .keys = (const int16[]) {__VA_ARGS__}}

const OwnShape own_shapes[OWN_COUNT] = {
	[OWN_NODE] = OPEN(node),
	[OWN_CONTACT] = CLOSED(contact),
	[OWN_CONTACT_PKEY] = INDEX(contact_pkey, OWN_CONTACT, true, Anum_contact_server, Anum_contact_role),
	[OWN_BRANCH] = CLOSED(branch),
	[OWN_BRANCH_N_IDX] = INDEX(branch_n_idx, OWN_BRANCH, false, Anum_branch_n),
	[OWN_GLOBAL] = CLOSED(global),
	[OWN_GLOBAL_PKEY] = INDEX(global_pkey, OWN_GLOBAL, true, Anum_global_n),
	[OWN_SHARED_B] = SEQUENCE(shared_b),
	[OWN_HISTORY] = CLOSED(history),
	[OWN_JOINED_BRANCH] = CLOSED(joined_branch),
	[OWN_JOINED_BRANCH_PKEY] = INDEX(joined_branch_pkey, OWN_JOINED_BRANCH, true, Anum_joined_branch_branch),
	[OWN_SETTLED] = CLOSED(settled),
	[OWN_COORDINATOR] = CLOSED(coordinator),
	[OWN_COORDINATOR_PKEY] = INDEX(coordinator_pkey, OWN_COORDINATOR, true, Anum_coordinator_node, Anum_coordinator_role),
	[OWN_RESOLUTION] = CLOSED(resolution),
	[OWN_RESOLUTION_PKEY] = INDEX(resolution_pkey, OWN_RESOLUTION, true, Anum_resolution_gid),
	[OWN_UNDO_LOG] = CLOSED(undo_log),
	[OWN_UNDO_LOG_KEY_IDX] = INDEX(undo_log_key_idx, OWN_UNDO_LOG, false, Anum_undo_log_key_hash),
	[OWN_RELATION_SHAPE] = CLOSED(relation_shape),
	[OWN_RELATION_SHAPE_IDX] = INDEX(relation_shape_idx, OWN_RELATION_SHAPE, false,
									 Anum_relation_shape_relation, Anum_relation_shape_shape),
	[OWN_TCC_ACTION] = CLOSED(tcc_action),
	[OWN_TCC_ACTION_PKEY] = INDEX(tcc_action_pkey, OWN_TCC_ACTION, true, Anum_tcc_action_action),
	[OWN_TRY_LOG] = CLOSED(try_log),
	[OWN_TRY_LOG_PKEY] = INDEX(try_log_pkey, OWN_TRY_LOG, true, Anum_try_log_branch),
	[OWN_CONFIRM_LOG] = CLOSED_END_LOG(confirm_log),
	[OWN_CONFIRM_LOG_PKEY] = INDEX(confirm_log_pkey, OWN_CONFIRM_LOG, true, Anum_end_log_branch),
	[OWN_CANCEL_LOG] = CLOSED_END_LOG(cancel_log),
	[OWN_CANCEL_LOG_PKEY] = INDEX(cancel_log_pkey, OWN_CANCEL_LOG, true, Anum_end_log_branch),
	[OWN_LEDGER] = CLOSED(ledger),
	[OWN_FROZEN] = CLOSED(frozen),
	[OWN_FROZEN_PKEY] = INDEX(frozen_pkey, OWN_FROZEN, true, Anum_frozen_branch),
	[OWN_MESSAGE] = OPEN(message),
	[OWN_MESSAGE_ID] = SEQUENCE(message_id),
	[OWN_MESSAGE_SEGMENT] = OPEN(message_segment),
	[OWN_DELAYED_MESSAGE] = CLOSED(delayed_message),
	[OWN_DELAYED_MESSAGE_DELIVER_AT_IDX] = INDEX(delayed_message_deliver_at_idx, OWN_DELAYED_MESSAGE, false,
												 Anum_delayed_message_deliver_at),
	[OWN_HELD_MESSAGE] = CLOSED(held_message),
	[OWN_HELD_MESSAGE_BRANCH_IDX] = INDEX(held_message_branch_idx, OWN_HELD_MESSAGE, false, Anum_held_message_branch),
	[OWN_HALF_MESSAGE] = CLOSED(half_message),
	[OWN_HALF_MESSAGE_PKEY] = INDEX(half_message_pkey, OWN_HALF_MESSAGE, true, Anum_half_message_id),
	[OWN_HALF_MESSAGE_NEXT_CHECK_IDX] = INDEX(half_message_next_check_idx, OWN_HALF_MESSAGE, false,
											  Anum_half_message_next_check),
	[OWN_SUBSCRIPTION] = OPEN(subscription),
	[OWN_POSITION] = CLOSED(position),
	[OWN_UNDELIVERED] = OPEN(undelivered),
	[OWN_DE_DUPLICATION] = CLOSED(de_duplication),
	[OWN_DE_DUPLICATION_PKEY] = INDEX(de_duplication_pkey, OWN_DE_DUPLICATION, true, Anum_de_duplication_subscription,
									  Anum_de_duplication_generation, Anum_de_duplication_batch),
	[OWN_NOTIFICATION] = BY_SQL(notification),
	[OWN_HELD_NOTIFICATION] = CLOSED(held_notification),
	[OWN_HELD_NOTIFICATION_BRANCH_IDX] = INDEX(held_notification_branch_idx, OWN_HELD_NOTIFICATION, false,
											   Anum_held_notification_branch),
	[OWN_EXPECTATION] = BY_SQL(expectation),
};

/* Is it a B-tree on plain columns? */
static bool
is_plain_btree(Oid index, HeapTuple tuple)
{
	HeapTuple	rel = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool		plain;

	if (!HeapTupleIsValid(rel))
		return false;
	plain = ((Form_pg_class) GETSTRUCT(rel))->relam == BTREE_AM_OID &&
		heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
	ReleaseSysCache(rel);
	return plain;
}

bool
shape_is_known_index(OwnRelation which, Oid index)
{
	char	   *name = get_rel_name(index);

	for (int i = 0; i < OWN_COUNT && name != NULL; i++)
		if (own_shapes[i].kind == RELKIND_INDEX && own_shapes[i].table == which &&
			strcmp(own_shapes[i].name, name) == 0)
			return true;
	return false;
}

/* C gives rows of other indexes their entries too, if these are as simple as its own. */
static char *
strange_index(OwnRelation which, Relation rel)
{
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		bool		fits;

		if (!HeapTupleIsValid(tuple))
			continue;
		fits = is_plain_btree(lfirst_oid(cell), tuple);
		ReleaseSysCache(tuple);
		if (!fits)
			return psprintf("Its index \"%s\" is not a B-tree on columns.", get_rel_name(lfirst_oid(cell)));
	}
	return NULL;
}

char *
shape_mismatch(OwnRelation which, Relation rel)
{
	const OwnShape *shape = &own_shapes[which];
	TupleDesc	desc = RelationGetDescr(rel);

	if (rel->rd_rel->relkind != shape->kind)
		return psprintf("Its kind is \"%c\", and was to be \"%c\".", rel->rd_rel->relkind, shape->kind);
	if (shape->kind != RELKIND_RELATION)
		return NULL;
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		return pstrdup("Its access method is not heap.");
	if (shape->natts == 0)
		return NULL;
	if (desc->natts != shape->natts)
		return psprintf("It has %d columns, dropped ones included, and was to have %d.", desc->natts, shape->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->atttypid != shape->types[i])
			return psprintf("Its column %d was to be of type %s, and is %s.", i + 1, format_type_be(shape->types[i]),
							att->attisdropped ? "dropped" : format_type_be(att->atttypid));
	}
	return shape->closed ? strange_index(which, rel) : NULL;
}

bool
shape_fits_index(OwnRelation which, Oid index, Oid table)
{
	const OwnShape *shape = &own_shapes[which];
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	bool		fits;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_index) GETSTRUCT(tuple);
	fits = form->indrelid == table && form->indisvalid && form->indisunique == shape->unique &&
		form->indnatts == shape->natts && form->indnkeyatts == shape->natts &&
		is_plain_btree(index, tuple);
	for (int i = 0; fits && i < shape->natts; i++)
		fits = form->indkey.values[i] == shape->keys[i];
	ReleaseSysCache(tuple);
	return fits;
}
