/*
 * image.h
 *		Images: rows as PostgreSQL stores them, kept as bytea.
 *
 * An image is a heap tuple without what only its place on a page needs: the
 * attribute count, the null bitmap and the data. It is complete: what was in
 * TOAST is brought in line, attributes that the tuple lacks are filled in.
 */
#ifndef DTX_AT_IMAGE_H
#define DTX_AT_IMAGE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "at/key.h"
#include "executor/tuptable.h"

/* The image of a tuple, palloc'd. */
extern bytea *image_of(HeapTuple tuple, TupleDesc desc);

/* A tuple again, palloc'd; to be read with a descriptor of the same columns. */
extern HeapTuple image_tuple(bytea *image);

/* The number of attributes in an image. */
extern int	image_natts(HeapTuple tuple);

/*
 * The columns of an image, against the relation's of today. Fields are indexed
 * by attribute number - 1, over the relation's descriptor.
 */
typedef struct ShapeMap
{
	int32		shape;
	int			natts;			/* of the descriptor */
	bool	   *present;		/* the column is in the image and still there */
	bool		all_present;	/* no column was added since */
	const char *conflict;		/* NULL, or why the image does not fit */
} ShapeMap;

/* How images of a shape map to an open relation, palloc'd. */
extern ShapeMap *shape_map(Relation rel, AttachedRelation *ar, int32 shape);

/* Record the present shape of a relation, if that was not done yet. */
extern void shape_record(Relation rel, AttachedRelation *ar);

/* A transaction ended, or a subtransaction aborted: what was recorded in it may
 * be gone. Never throws. */
extern void shape_forget(void);

/* Are the columns that map shares equal, to the bit, in image and slot? */
extern bool image_equals_slot(HeapTuple image, TupleTableSlot *slot, const ShapeMap *map);

/*
 * A row type's descriptor for images of a shape, from dtx.relation_shape, with
 * the columns' names and types as they were. NULL when the shape is unknown.
 */
extern TupleDesc shape_descriptor(Relation rel, AttachedRelation *ar, int32 shape);

#endif							/* DTX_AT_IMAGE_H */
