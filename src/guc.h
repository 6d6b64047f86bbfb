/*
 * guc.h
 *		Every setting of dtx, in alphabetical order. docs/reference.md explains them.
 */
#ifndef DTX_GUC_H
#define DTX_GUC_H

typedef enum UnattachedPolicy
{
	UNATTACHED_ERROR,
	UNATTACHED_WARN,
	UNATTACHED_ALLOW
} UnattachedPolicy;

extern int	guc_call_timeout;		/* ms; 0 waits for ever */
extern int	guc_connect_timeout;	/* ms */
extern int	guc_connections_per_role;
extern int	guc_connections_per_server;
extern int	guc_history_retention;	/* s; -1 keeps for ever */
extern int	guc_lock_timeout;		/* ms; 0 waits for ever */
extern int	guc_max_answer_size;	/* kB */
extern int	guc_max_databases;
extern int	guc_max_message_size;	/* kB */
extern int	guc_message_check_attempts;
extern int	guc_message_check_first;	/* ms */
extern int	guc_message_check_interval; /* ms */
extern int	guc_message_retention;	/* s */
extern int	guc_message_segment_size;	/* kB */
extern int	guc_notification_retention; /* s */
extern int	guc_received_retention; /* s */
extern int	guc_recovery_interval;	/* ms */
extern int	guc_retry_after;	/* ms; -1: not set */
extern int	guc_retry_base;			/* ms */
extern int	guc_retry_max;			/* ms */
extern int	guc_settle_batch;
extern int	guc_settle_delay;		/* ms */
extern int	guc_subscriptions_per_role;
extern int	guc_unattached;			/* UnattachedPolicy */
extern int	guc_worker_idle_timeout;	/* ms; 0 never gives its slot back */

/* Define them all; at load time only. */
extern void guc_define(void);

#endif							/* DTX_GUC_H */
