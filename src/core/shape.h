/*
 * shape.h
 *		What dtx's own relations are like: their names, kinds, columns and indexes.
 *
 * C reads and writes them by column number, without asking what a column is: a
 * relation that is not as the install script makes it would crash the server.
 */
#ifndef DTX_SHAPE_H
#define DTX_SHAPE_H

#include "core/relations.h"

typedef struct OwnShape
{
	const char *name;
	char		kind;			/* a relkind */
	OwnRelation table;			/* of an index: its table */
	bool		unique;			/* an index: it is */
	int			natts;			/* columns, or of an index key columns; 0: C reads none */
	const Oid  *types;			/* the columns' */
	const int16 *keys;			/* of an index: columns of its table */
	bool		closed;			/* C inserts its rows, with their index entries */
} OwnShape;

/* By OwnRelation. */
extern const OwnShape own_shapes[OWN_COUNT];

/*
 * What of a table or sequence is not as the script makes it: a detail for an error
 * message, palloc'd, or NULL. The caller has it open.
 */
extern char *shape_mismatch(OwnRelation which, Relation rel);

/* The same of an index, whose table is the given one; from the catalogs. */
extern bool shape_fits_index(OwnRelation which, Oid index, Oid table);

/* Does own_shapes have this index of the table? */
extern bool shape_is_known_index(OwnRelation which, Oid index);

#endif							/* DTX_SHAPE_H */
