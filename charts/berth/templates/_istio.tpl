{{/*
Istio's documents are the files of envoy/istio, which the tests run in Envoy: the same text, with your names in place of the samples'.
A list of {file, document, yours}. What is `yours` is not rendered: the nodes' Service, routes that you write yourself, and what the
chart has in its own form (Service and NetworkPolicy of the state service).
*/}}
{{- define "berth.istio.documents" -}}
{{- $istio := .Values.istio -}}
{{- $nodes := $istio.nodes -}}
{{- $name := include "berth.fullname" . -}}
{{- $state := printf "%s.%s.svc.cluster.local" $name .Release.Namespace -}}
{{- $host := printf "%s.%s.svc.cluster.local" $nodes.service $nodes.namespace -}}
{{- $timeout := ternary "" (printf "request_timeout: %s" $istio.requestTimeout) (eq $istio.requestTimeout "0s") -}}
{{- $names := list
  (list "outbound|8650||berth-state.berth.svc.cluster.local" (printf "outbound|%d||%s" (int .Values.service.port) $state))
  (list "berth-state.berth.svc.cluster.local" $state)
  (list "outbound|8080|" (printf "outbound|%d|" (int $nodes.port)))
  (list "nodes.games.svc.cluster.local" $host)
  (list "portNumber: 8080" (printf "portNumber: %d" (int $nodes.port)))
  (list "number: 8080" (printf "number: %d" (int $nodes.port)))
  (list "games.example.com" $istio.gateway.host)
  (list "istio-ingress/games" (printf "%s/games" $istio.gateway.namespace))
  (list "istio: ingressgateway" (printf "istio: %s" $istio.gateway.label))
  (list "app: client" (printf "app: %s" $istio.sidecar.app))
  (list "app: berth-state" (printf "app: %s" $name))
  (list "request_timeout: 30s" $timeout)
  (list "oci://registry.example.com/berth-filter:0.1.0" (printf "oci://%s" $istio.filter.image))
  (list (repeat 64 "0") $istio.filter.sha256)
-}}
{{- $namespaces := dict "games" $nodes.namespace "istio-ingress" $istio.gateway.namespace "istio-system" $istio.rootNamespace "berth" .Release.Namespace -}}
{{- $shared := and $istio.gateway.enabled $istio.sidecar.enabled (eq $istio.gateway.namespace $nodes.namespace) -}}
{{- $hashes := list (dict "header" (dict "header_name" "x-berth-hash-key") "terminal" true) -}}
{{- range (($istio.session).sources) -}}
{{- if .header -}}
{{- $hashes = append $hashes (dict "header" (dict "header_name" .header) "terminal" true) -}}
{{- else if .cookie -}}
{{- $hashes = append $hashes (dict "cookie" (dict "name" .cookie) "terminal" true) -}}
{{- else if .query -}}
{{- $hashes = append $hashes (dict "query_parameter" (dict "name" .query) "terminal" true) -}}
{{- end -}}
{{- end -}}
{{- $files := list "base/nodes.yaml" "base/plugin.yaml" "base/state.yaml" -}}
{{- range $place := list "gateway" "sidecar" -}}
{{- if (get $istio $place).enabled -}}
{{- $files = concat $files (list (printf "%s/routes.yaml" $place) (printf "%s/patches.yaml" $place) (printf "%s/metrics.yaml" $place)) -}}
{{- end -}}
{{- end -}}
{{- $found := list -}}
{{- range $file := $files -}}
{{- $place := get $istio (dir $file) -}}
{{- $text := $.Files.Get (printf "istio/%s" $file) | required (printf "istio/%s is not in the chart" $file) -}}
{{- /* In two steps, so that one of your names is never taken for another sample's. No value has these brackets. */ -}}
{{- range $index, $pair := $names -}}
{{- $text = $text | replace (first $pair) (printf "<%d>" $index) -}}
{{- end -}}
{{- range $index, $pair := $names -}}
{{- $text = $text | replace (printf "<%d>" $index) (last $pair) -}}
{{- end -}}
{{- range $part := splitList "\n---\n" $text -}}
{{- $document := fromYaml $part -}}
{{- $metadata := $document.metadata -}}
{{- $kind := $document.kind -}}
{{- $yours := has $kind (list "Service" "NetworkPolicy") -}}
{{- if and (has $kind (list "Gateway" "VirtualService")) (not $place.routes.enabled) -}}
{{- $yours = true -}}
{{- end -}}
{{- if eq $kind "Sidecar" -}}
{{- $yours = empty $istio.sidecar.egress -}}
{{- $hosts := concat (list "./*" (printf "%s/*" $.Release.Namespace)) $istio.sidecar.egress | uniq -}}
{{- $_ := set $document.spec "egress" (list (dict "hosts" $hosts)) -}}
{{- end -}}
{{- if eq $kind "AuthorizationPolicy" -}}
{{- $rule := first $document.spec.rules -}}
{{- $_ := set (first $rule.from).source "principals" $istio.principals -}}
{{- end -}}
{{- if and (eq $metadata.name "berth-plugin") (or $istio.session $istio.token) -}}
{{- $config := (first $document.spec.configPatches).patch.value.typed_config.config.configuration -}}
{{- $plugin := fromJson $config.value -}}
{{- with $istio.session -}}
{{- $_ := set (first $plugin.pools) "session" . -}}
{{- end -}}
{{- with $istio.token -}}
{{- $_ := set $plugin.state "token" . -}}
{{- end -}}
{{- $_ := set $config "value" (toPrettyJson $plugin) -}}
{{- end -}}
{{- if and $istio.session (eq $metadata.name "berth-lb") -}}
{{- $policy := (first (first $document.spec.configPatches).patch.value.load_balancing_policy.policies).typed_extension_config.typed_config -}}
{{- $ring := (first $policy.fallback_policy.policies).typed_extension_config.typed_config -}}
{{- $_ := set $ring.consistent_hashing_lb_config "hash_policy" $hashes -}}
{{- end -}}
{{- if eq $metadata.name "berth-state" -}}
{{- $_ := set $metadata "name" $name -}}
{{- else if eq $metadata.name "nodes" -}}
{{- $_ := set $metadata "name" $nodes.service -}}
{{- else if eq $kind "Sidecar" -}}
{{- $_ := set $metadata "name" $istio.sidecar.app -}}
{{- else if and $shared (hasPrefix "sidecar/" $file) (eq $kind "EnvoyFilter") -}}
{{- $_ := set $metadata "name" (printf "%s-sidecar" $metadata.name) -}}
{{- else if and $shared (hasPrefix "sidecar/" $file) (eq $kind "ConfigMap") -}}
{{- /* The gateway's is the same. */ -}}
{{- $yours = true -}}
{{- end -}}
{{- if not (hasKey $namespaces $metadata.namespace) -}}
{{- fail (printf "istio/%s: unknown namespace %s" $file $metadata.namespace) -}}
{{- end -}}
{{- $_ := set $metadata "namespace" (get $namespaces $metadata.namespace) -}}
{{- $found = append $found (dict "file" $file "document" $document "yours" $yours) -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
