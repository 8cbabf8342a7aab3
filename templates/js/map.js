// The zoomable map; see site.js.
