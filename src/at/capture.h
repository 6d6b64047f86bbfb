/*
 * capture.h
 *		The trigger on attached tables.
 */
#ifndef DTX_AT_CAPTURE_H
#define DTX_AT_CAPTURE_H

/* The transaction is over. Never throws. */
extern void capture_xact_end(void);

#endif							/* DTX_AT_CAPTURE_H */
