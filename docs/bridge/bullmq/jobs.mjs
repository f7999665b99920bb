// What Carebell is to do for the jobs of each BullMQ queue: an example to copy. `due` is when a job runs.

const HOUR = 3_600_000;

export default {
  "medication-reminders": ({ data, due }) => ({
    kind: "reminder.medication",
    body: {
      medicationId: data.medicationId,
      scheduledTime: data.scheduledTime ?? due.toISOString(),
      reminderMinutes: data.minutesBefore ?? 0,
    },
  }),
  notifications: ({ name, data, opts, due }) => ({
    kind: "notification",
    // In BullMQ 1 is the highest priority, and 0 is none.
    lane: opts.priority === 1 ? "critical" : "normal",
    body: { recipients: data.userIds.map((userId) => ({ userId })), type: name, title: data.title, body: data.body },
    notAfter: new Date(due.getTime() + HOUR),
  }),
};
