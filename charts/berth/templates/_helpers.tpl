{{/* The name in labels. */}}
{{- define "berth.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of objects: the release's, with the chart's unless it is in it. At most 52 bytes, so that "-valkey-0" and the like fit. */}}
{{- define "berth.fullname" -}}
{{- $name := include "berth.name" . -}}
{{- $joined := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $joined | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "berth.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "berth.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What selects a component's pods; it must never change. Called with the root and the component. */}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: {{ include "berth.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "berth.labels" -}}
{{ include "berth.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: berth
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "berth.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Whether Istio's agent shows the service's metrics; empty if not. */}}
{{- define "berth.metricsMerging" -}}
{{- and .Values.istio.enabled .Values.istio.metricsMerging | ternary "yes" "" -}}
{{- end -}}

{{/* What a container may do: nothing but run. */}}
{{- define "berth.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Values that are right each by itself and wrong together. Every one is named at once. */}}
{{- define "berth.check" -}}
{{- $values := .Values -}}
{{- $faults := list -}}
{{- if and (eq $values.store "redis") (not $values.redis.url) (not $values.redis.secret.name) -}}
{{- $faults = append $faults "redis.url or redis.secret.name is missing: say where pins are kept. For a trial: store: valkey" -}}
{{- end -}}
{{- if and (eq $values.store "memory") (or $values.autoscaling.enabled (ne (int $values.replicas) 1)) -}}
{{- $faults = append $faults "store: memory needs replicas: 1 and no autoscaling, as each pod would have pins of its own" -}}
{{- end -}}
{{- if and (ne $values.store "redis") (or $values.redis.cluster (ne $values.redis.durability "none") $values.redis.url $values.redis.secret.name $values.redis.tls.caSecret $values.redis.tls.certSecret) -}}
{{- $faults = append $faults "redis has values, and store is not redis" -}}
{{- end -}}
{{- if and $values.tls.clientCaSecret (not $values.tls.secret) -}}
{{- $faults = append $faults "tls.clientCaSecret needs tls.secret" -}}
{{- end -}}
{{- if and $values.istio.enabled $values.tls.secret -}}
{{- $faults = append $faults "istio.enabled and tls.secret: the mesh encrypts already, and its proxies speak plain HTTP/2 to the service" -}}
{{- end -}}
{{- if $values.istio.enabled -}}
{{- if and $values.access.tokenSecret.name (not $values.istio.token) -}}
{{- $faults = append $faults "access.tokenSecret needs istio.token, the same token: without it the filter shows no token, and each call gets 401" -}}
{{- end -}}
{{- if hasPrefix "registry.example.com/" $values.istio.filter.image -}}
{{- $faults = append $faults "istio.filter.image is a placeholder: push the filter's image and name it. Until a proxy has the image it answers 403 to every request that passes the filter" -}}
{{- end -}}
{{- if eq $values.istio.filter.sha256 (repeat 64 "0") -}}
{{- $faults = append $faults "istio.filter.sha256 is a placeholder: give the digest of the manifest of istio.filter.image. Until it fits proxies answer 403 to every request that passes the filter" -}}
{{- end -}}
{{- if not $values.istio.principals -}}
{{- $faults = append $faults "istio.principals is missing: name the service accounts of the gateway, of clients with a sidecar, of the nodes' pods (berth join and leave) and of operators" -}}
{{- end -}}
{{- end -}}
{{- if $values.envoyGateway.enabled -}}
{{- if $values.istio.enabled -}}
{{- $faults = append $faults "istio.enabled and envoyGateway.enabled: only one of them, as the service is inside the mesh or outside" -}}
{{- end -}}
{{- if $values.tls.secret -}}
{{- $faults = append $faults "envoyGateway.enabled and tls.secret: the proxies speak plain HTTP/1.1 to the service. Leave tls.secret empty, and use access.tokenSecret and networkPolicy" -}}
{{- end -}}
{{- if not $values.service.headless.enabled -}}
{{- $faults = append $faults "envoyGateway.enabled needs service.headless.enabled: the proxies reach each pod by that name" -}}
{{- end -}}
{{- if and $values.access.tokenSecret.name (not $values.envoyGateway.token) -}}
{{- $faults = append $faults "access.tokenSecret needs envoyGateway.token, the same token: without it the filter shows no token, and each call gets 401" -}}
{{- end -}}
{{- if hasPrefix "registry.example.com/" $values.envoyGateway.filter.image -}}
{{- $faults = append $faults "envoyGateway.filter.image is a placeholder: push the filter's image and name it. While Envoy Gateway cannot pull the image, every route of the Gateway answers 500" -}}
{{- end -}}
{{- if and $values.envoyGateway.class.enabled (not $values.envoyGateway.gateway.enabled) -}}
{{- $faults = append $faults "envoyGateway.gateway.enabled: false needs envoyGateway.class.enabled: false: the chart's class would be for no Gateway, and the proxies of yours would have no state cluster. `helm install` then prints what the EnvoyProxy of your Gateway needs" -}}
{{- end -}}
{{- $route := $values.envoyGateway.route -}}
{{- if and $route.enabled (or (ne (int $route.berthRule) 0) (ne (int $route.restRule) 1)) -}}
{{- $faults = append $faults "envoyGateway.route.berthRule and restRule are for an HTTPRoute of your own: set route.enabled: false, or leave them at 0 and 1" -}}
{{- else if eq (int $route.berthRule) (int $route.restRule) -}}
{{- $faults = append $faults "envoyGateway.route.berthRule and restRule are the same rule: give the index of each in your HTTPRoute" -}}
{{- end -}}
{{- $extension := $values.envoyGateway.extensionPolicy -}}
{{- if and $extension.enabled (or $extension.namespace (ne (int $extension.index) 0)) -}}
{{- $faults = append $faults "envoyGateway.extensionPolicy.namespace and index are for a policy of your own: set extensionPolicy.enabled: false, or leave them out" -}}
{{- end -}}
{{- range $key := list "name" "port" -}}
{{- $seen := list -}}
{{- range $values.envoyGateway.gateway.listeners -}}
{{- $seen = append $seen (get . $key | toString) -}}
{{- end -}}
{{- if ne (len $seen) (len (uniq $seen)) -}}
{{- $faults = append $faults (printf "envoyGateway.gateway.listeners: two of them have the same %s" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (include "berth.metricsMerging" .) (or (eq $values.serviceMonitor.scheme "https") $values.serviceMonitor.tlsConfig) -}}
{{- $faults = append $faults "serviceMonitor.scheme: https and tlsConfig need istio.metricsMerging: false, as Istio's agent shows metrics in plain text" -}}
{{- end -}}
{{- $ours := include "berth.labels" (dict "root" . "component" "state") | fromYaml -}}
{{- if $values.istio.enabled -}}
{{- $_ := set $ours "app" "" -}}
{{- end -}}
{{- range $label := keys $values.podLabels | sortAlpha -}}
{{- if hasKey $ours $label -}}
{{- $faults = append $faults (printf "podLabels: the chart sets %s itself" $label) -}}
{{- end -}}
{{- end -}}
{{- $jwks := $values.access.jwks -}}
{{- if and $jwks.secret $jwks.configMap -}}
{{- $faults = append $faults "access.jwks.secret and access.jwks.configMap: only one of them" -}}
{{- end -}}
{{- if or $jwks.secret $jwks.configMap -}}
{{- if not $jwks.algorithms -}}
{{- $faults = append $faults "access.jwks.algorithms is missing: name those that the issuer signs with, such as RS256" -}}
{{- end -}}
{{- if not (or $values.access.tokenSecret.name $values.tls.clientCaSecret) -}}
{{- $faults = append $faults "access.jwks needs access.tokenSecret.name or tls.clientCaSecret (with istio.enabled: access.tokenSecret.name and istio.token; with envoyGateway.enabled: access.tokenSecret.name and envoyGateway.token): proxies show no JWT" -}}
{{- end -}}
{{- else if or $jwks.algorithms $jwks.issuer $jwks.audiences -}}
{{- $faults = append $faults "access.jwks has values, and neither secret nor configMap" -}}
{{- end -}}
{{- $scaling := $values.autoscaling -}}
{{- if and $scaling.enabled (not (or $scaling.cpuPercent $scaling.sessionsCreated.enabled)) -}}
{{- $faults = append $faults "autoscaling has no metric: set cpuPercent or sessionsCreated.enabled" -}}
{{- end -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $faults = append $faults "autoscaling.minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.from) -}}
{{- $faults = append $faults "networkPolicy.from is missing: without it no proxy could call the service" -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n- %s" (join "\n- " $faults)) -}}
{{- end -}}
{{- end -}}
