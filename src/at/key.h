/*
 * key.h
 *		What AT knows of an attached relation: its key, and the shape of its rows.
 *
 * A row is told by its key: the replica identity index if one is set, the
 * primary key otherwise. Keys are compared by the index's operator class, so
 * that 1.0 and 1.00 are one key.
 */
#ifndef DTX_AT_KEY_H
#define DTX_AT_KEY_H

#include "postgres.h"

#include "access/attnum.h"
#include "access/htup.h"
#include "fmgr.h"
#include "utils/rel.h"

typedef struct KeyColumn
{
	AttrNumber	attnum;
	Oid			collation;
	bool		hashable;		/* else the column is no part of the row's hash */
	FmgrInfo	hash;
	FmgrInfo	equal;
	FmgrInfo	order;
} KeyColumn;

typedef struct AttachedRelation
{
	Oid			relid;			/* hash key */
	bool		valid;			/* no invalidation has come since it was built */
	bool		attached;		/* the capture trigger is there and enabled */
	Oid			key_index;
	int			nkeys;
	KeyColumn	keys[INDEX_MAX_KEYS];
	int32		shape;			/* hash of the columns' numbers and types */
	bool		shape_recorded; /* dtx.relation_shape has it, committed */
	uint64		shape_epoch;	/* or it has it as long as this epoch lasts */
	MemoryContext context;
} AttachedRelation;

/* What is known of an open relation; built on first use and after changes. */
extern AttachedRelation *attached_relation(Relation rel);

/* Have fit_note_change called from now on. */
extern void key_watch_relations(void);

/* The key index of a relation: InvalidOid when it has none that AT can use. */
extern Oid	key_index_of(Relation rel);

/* Has the relation AT's capture trigger, enabled in every role of the session? */
extern bool has_capture_trigger(Relation rel);

/* That trigger, or NULL. */
extern struct Trigger *capture_trigger(Relation rel);

/* The hash under which a row's key is locked. */
extern int64 key_hash(AttachedRelation *ar, HeapTuple tuple, TupleDesc desc);

/* Is it the same key, by the operator class? Neither may have NULLs in it. */
extern bool key_equal(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc);

/* Less than, equal to or greater than 0, as the key of a comes before that of b, is
 * the same or comes after it, by the operator class. NULLs are last. */
extern int	key_compare(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc);

/* Is it the same key, byte by byte? A cheap test, which may say no too often. */
extern bool key_identical(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc);

/* "(account_no)=(1)" for messages to a role, palloc'd; "(account_no)=(...)" where it may
 * not read them. */
extern char *key_describe(AttachedRelation *ar, HeapTuple tuple, TupleDesc desc, Oid role);

#endif							/* DTX_AT_KEY_H */
