package containers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"unproxy/integration_test/lab"
)

// overlays are the directories of the manifests, each a set-up of its own.
var overlays = []string{"sidecar", "daemonset", "loadbalancer"}

// manifests are the objects of an overlay.
type manifests struct {
	name       string
	deployment *apps.Deployment
	daemonSet  *apps.DaemonSet
	services   []*core.Service
	trust      *core.ConfigMap
	network    *networking.NetworkPolicy
	disruption *policy.PodDisruptionBudget
	monitor    *monitoring.ServiceMonitor
}

// pod returns the template of the pods.
func (m *manifests) pod() core.PodTemplateSpec {
	if m.daemonSet != nil {
		return m.daemonSet.Spec.Template
	}
	return m.deployment.Spec.Template
}

// render builds an overlay by Kustomize and decodes each object strictly.
func render(t testing.TB, overlay string) *manifests {
	t.Helper()
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), scripts+"kubernetes/"+overlay)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifests{name: overlay}
	for _, o := range objects.Resources() {
		text, err := o.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.add(o.GetKind(), text); err != nil {
			t.Errorf("%s: %s %s: %v", overlay, o.GetKind(), o.GetName(), err)
		}
	}
	return m
}

// add decodes an object. An unknown field is an error.
func (m *manifests) add(kind string, text []byte) error {
	switch kind {
	case "Deployment":
		m.deployment = new(apps.Deployment)
		return yaml.UnmarshalStrict(text, m.deployment)
	case "DaemonSet":
		m.daemonSet = new(apps.DaemonSet)
		return yaml.UnmarshalStrict(text, m.daemonSet)
	case "Service":
		m.services = append(m.services, new(core.Service))
		return yaml.UnmarshalStrict(text, m.services[len(m.services)-1])
	case "ConfigMap":
		m.trust = new(core.ConfigMap)
		return yaml.UnmarshalStrict(text, m.trust)
	case "NetworkPolicy":
		m.network = new(networking.NetworkPolicy)
		return yaml.UnmarshalStrict(text, m.network)
	case "PodDisruptionBudget":
		m.disruption = new(policy.PodDisruptionBudget)
		return yaml.UnmarshalStrict(text, m.disruption)
	case "ServiceMonitor":
		m.monitor = new(monitoring.ServiceMonitor)
		return yaml.UnmarshalStrict(text, m.monitor)
	}
	return fmt.Errorf("no test decodes this kind")
}

// Every overlay renders, and all objects are those of the API.
func TestManifests(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			m := render(t, overlay)
			if m.trust == nil || m.network == nil || m.disruption == nil || m.monitor == nil || len(m.services) == 0 ||
				(m.deployment == nil) == (m.daemonSet == nil) {
				t.Fatalf("an object is missing in %+v", m)
			}
			checkSelectors(t, m)
			pod := m.pod().Spec
			if pod.HostNetwork || pod.HostPID || pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("the pod's rights: %+v", pod.SecurityContext)
			}
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				if c.Name != "sshd" {
					checkRights(t, c)
					checkSettings(t, m, c)
				}
			}
			checkProbes(t, gatewayIn(t, m))
			checkGrace(t, m)
		})
	}
	if err := new(manifests).add("Service", []byte("spec: {portz: []}")); err == nil {
		t.Error("an unknown field is decoded")
	}
}

// gatewayIn returns the container of the gateway.
func gatewayIn(t testing.TB, m *manifests) core.Container {
	t.Helper()
	pod := m.pod().Spec
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Name == "unproxy" {
			return c
		}
	}
	t.Fatal("no container is called unproxy")
	return core.Container{}
}

// env returns a setting of a container.
func env(c core.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// checkSelectors: services, policies and the monitor select what they are for.
func checkSelectors(t *testing.T, m *manifests) {
	t.Helper()
	labels := m.pod().Labels
	matches := func(what string, selector map[string]string, labels map[string]string) {
		t.Helper()
		if len(selector) == 0 {
			t.Errorf("%s selects everything", what)
		}
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("%s selects %s=%s, but the labels are %v", what, key, value, labels)
			}
		}
	}
	ports := make(map[string]bool)
	for _, p := range gatewayIn(t, m).Ports {
		ports[p.Name] = true
	}
	metrics := false
	for _, s := range m.services {
		matches("service "+s.Name, s.Spec.Selector, labels)
		for _, p := range s.Spec.Ports {
			if !ports[p.TargetPort.StrVal] {
				t.Errorf("service %s: no port of the gateway is called %s", s.Name, p.TargetPort.StrVal)
			}
			metrics = metrics || p.Name == m.monitor.Spec.Endpoints[0].Port
		}
		matches("the monitor", m.monitor.Spec.Selector.MatchLabels, s.Labels)
	}
	if !metrics {
		t.Errorf("no service has the monitor's port %s", m.monitor.Spec.Endpoints[0].Port)
	}
	matches("the network policy", m.network.Spec.PodSelector.MatchLabels, labels)
	matches("the disruption budget", m.disruption.Spec.Selector.MatchLabels, labels)
	trusted := m.network.Spec.Ingress[0].From[0].IPBlock.CIDR
	if !strings.Contains(m.trust.Data["trust"], "\n"+trusted+"\n") {
		t.Errorf("the network policy admits %s, the trust list is\n%s", trusted, m.trust.Data["trust"])
	}
}

// checkRights: never privileged, nothing but the one capability that a container needs.
func checkRights(t *testing.T, c core.Container) {
	t.Helper()
	s := c.SecurityContext
	if s.Privileged != nil && *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
		t.Errorf("%s: the security context is %+v", c.Name, s)
	}
	var want []core.Capability
	if env(c, "UNPROXY_TRANSPARENT") == "on" {
		want = []core.Capability{"NET_RAW"}
	}
	if slices.Equal(c.Args, []string{"routes", "apply"}) {
		want = []core.Capability{"NET_ADMIN"}
	}
	if !slices.Equal(s.Capabilities.Add, want) {
		t.Errorf("%s adds the capabilities %q, want %q", c.Name, s.Capabilities.Add, want)
	}
	if image := setting(t, "IMAGE") + ":latest"; c.Image != image {
		t.Errorf("%s has the image %s, want %s", c.Name, c.Image, image)
	}
}

// checkSettings: the program accepts the settings, with the list of the ConfigMap.
func checkSettings(t *testing.T, m *manifests, c core.Container) {
	t.Helper()
	list := lab.WriteFile(t, "trust", m.trust.Data["trust"])
	command := lab.Command{Name: lab.Binary(t), Args: []string{"check"}}
	for _, e := range c.Env {
		command.Env = append(command.Env, e.Name+"="+strings.ReplaceAll(e.Value, "/etc/unproxy/trust", list))
	}
	if output, code := lab.Run(t, command); code != 0 {
		t.Errorf("%s: check: exit code %d:\n%s", c.Name, code, output)
	}
	mounted := slices.ContainsFunc(c.VolumeMounts, func(v core.VolumeMount) bool { return v.MountPath == "/etc/unproxy" })
	if !mounted || env(c, "UNPROXY_RELOAD_INTERVAL") == "" {
		t.Errorf("%s does not see a changed trust list", c.Name)
	}
}

// checkProbes: liveness and readiness ask the health endpoint.
func checkProbes(t *testing.T, c core.Container) {
	t.Helper()
	number := int32(0)
	for _, p := range c.Ports {
		if p.Name == "health" {
			number = p.ContainerPort
		}
	}
	if address := env(c, "UNPROXY_HEALTH"); address != fmt.Sprintf(":%d", number) {
		t.Errorf("the port called health is %d, and --health %s", number, address)
	}
	for path, probe := range map[string]*core.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != "health" {
			t.Errorf("the probe of %s is %+v", path, probe)
		}
	}
}

// checkGrace: the pod's grace period covers preStop and the drain.
func checkGrace(t *testing.T, m *manifests) {
	t.Helper()
	c := gatewayIn(t, m)
	needed := seconds(t, env(c, "UNPROXY_DRAIN_DELAY")) + seconds(t, env(c, "UNPROXY_DRAIN_TIMEOUT"))
	for _, server := range m.pod().Spec.Containers {
		if l := server.Lifecycle; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil {
			needed += l.PreStop.Sleep.Seconds
		}
	}
	if grace := *m.pod().Spec.TerminationGracePeriodSeconds; grace <= needed || grace > needed+30 {
		t.Errorf("the grace period is %d s; preStop and drain take up to %d s", grace, needed)
	}
}
